"""Every setting, declared once: type, default, range and help in English and Chinese; presets, transformers' flags.

Knows words and numbers. Reads no data and starts nothing.
"""
