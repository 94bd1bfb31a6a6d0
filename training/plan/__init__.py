"""The base model and what fits beside it: the memory that a training takes, how many of a step's batches run together.

Knows sizes and devices. Takes no step.
"""
