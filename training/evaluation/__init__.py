"""Evaluation: rows answered by each contender and scored, from a command's plan to a report. Starts no training."""
