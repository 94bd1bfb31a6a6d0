"""A trainer's process from the run's settings to its end, alone or with others."""
