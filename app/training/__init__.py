"""What the training tab does: starting, watching and describing runs. Knows no Gradio."""
