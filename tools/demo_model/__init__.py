"""Makes the demo model and the sample data, from nothing but a seed and the phrases in ``phrases/``."""
