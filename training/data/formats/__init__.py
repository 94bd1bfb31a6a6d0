"""Bytes as rows under column names: JSON, tables in text, workbooks, Parquet.

Knows formats, encodings and how both break. Knows no column's meaning, no public data set's shape, and no token.
"""
