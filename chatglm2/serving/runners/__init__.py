"""Running the model over the cache, one way a device. Knows modules and tensors; knows no requests."""
