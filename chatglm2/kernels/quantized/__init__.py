"""Products with quantized weights, one backend a file. Knows the packed layout; knows no modules."""
