"""The processes that torchrun started: how they agree and how they are started. Knows no model."""
