"""Runs that wait for each other: one line on disk, and several settings made into several runs.

Knows runs, their processes and their settings. Trains nothing; needs no page.
"""
