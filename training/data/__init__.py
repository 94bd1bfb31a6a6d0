"""Data files as rows, examples, and batches of ids and labels. Knows the tokenizer's prompt; knows no model."""
