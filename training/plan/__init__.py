"""What fits: the memory that a training takes, and how many of a step's batches run together."""
