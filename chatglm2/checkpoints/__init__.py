"""Checkpoints on disk and on hubs: found, checked, read shard by shard, and written for other programs.

Knows file layouts. Runs no code from a checkpoint, and knows no requests.
"""
