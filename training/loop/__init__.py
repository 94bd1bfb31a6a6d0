"""One training, step by step: the model that it trains, the trainer, and who watches it.

Knows transformers' Trainer and the run's directory. Starts no process.
"""
