"""What the parts of Compare show beside its panes. Pure: data in, escaped HTML out."""
