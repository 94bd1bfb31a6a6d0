"""ChatGLM2 as torch modules: its layers, the prefix in front of them, quantized weights, and the loss.

Knows tensors and the checkpoint's tensor names. Knows no files but a prefix's, no text and no requests.
"""
