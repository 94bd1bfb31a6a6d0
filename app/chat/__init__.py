"""Conversations and who answers them. Knows no Gradio."""
