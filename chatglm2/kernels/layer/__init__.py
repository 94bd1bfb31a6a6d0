"""Fused operations of a layer, for training and for decoding. Imports Triton, which only GPUs and tests have."""
