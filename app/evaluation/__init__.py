"""What the Evaluate tab asks for: comparisons begun, watched, stopped and read. Knows no Gradio and no HTML."""
