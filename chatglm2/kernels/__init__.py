"""Fast operations that torch has not: products with quantized weights, and what lies between a layer's projections.

Knows devices and tensors; knows no modules.
"""
