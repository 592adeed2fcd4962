"""Test sets beyond the plain UTM layout: the field's benchmarks, own data, downloads to prepare.

`benchmarks` opens published sets by name, `layouts` reads CSV files, numbered frames and folders
without labels, `prepare` turns original downloads into the UTM layout (and loads no torch).
"""
