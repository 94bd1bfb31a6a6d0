"""Answers: requests that share a running batch, and conversations on top of them.

Knows the model and its prefixes. Knows no page and no training.
"""
