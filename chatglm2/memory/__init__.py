"""What models and conversations take of a device's memory. Knows sizes; knows no requests and no files."""
