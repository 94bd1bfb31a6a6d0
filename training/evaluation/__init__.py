"""Evaluation: rows answered by each contender and scored, from a request to a report. Starts no training."""
