"""What is wrong with a data file, and files without that: looked for row by row, told by line.

Knows rows, examples and lengths; writes only new files beside the user's. Knows no page and prints nothing.
"""
