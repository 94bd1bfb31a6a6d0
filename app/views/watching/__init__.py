"""What watching runs looks like beside a run's own figures.

Settings, answers to pinned prompts, the line, several runs: values in, escaped HTML out.
"""
