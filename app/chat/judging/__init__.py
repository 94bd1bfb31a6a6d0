"""What a reader makes of two answers: where they differ, which is better, and which is good enough to learn from.

Knows answers, not who shows them and not how they came about.
"""
