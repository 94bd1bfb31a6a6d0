"""Fused operations of a layer on a GPU, for training and for decoding. Imports Triton, which only GPUs have."""
