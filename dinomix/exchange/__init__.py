"""Models from elsewhere, and for elsewhere: published checkpoints, export, whatever a path means.

It stands above runs and test sets, since `open_model` and `open_testset` open those, too.
"""
