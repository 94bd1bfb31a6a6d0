"""Text to ids and back, and the chat prompt around it. Knows no model and no device."""
