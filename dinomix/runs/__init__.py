"""Runs: a training kept in a folder of its own, found again by its identity, gone on with after a
kill. Here are the folder, `train`, what a run asks of its machine, the frozen prefix's cache, and
many jobs on several processes.
"""
