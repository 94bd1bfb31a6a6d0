"""Comparison: several checkpoints and their base answer the same rows together; the task against what is kept.

Knows how one is asked for, run in a process of its own, watched from its directory and told. Trains nothing.
"""
