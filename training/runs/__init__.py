"""Runs on disk: one directory each, its state, events and checkpoints, and the process that writes them.

Knows files and process ids. Knows no model and no data.
"""
