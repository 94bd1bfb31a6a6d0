"""What stands in each tab: Gradio's components and thin handlers. Holds no logic that works without a browser."""
