"""Where conversations stay when another one is on the page: the browser's shelf, and files that a person takes away.

Knows how a conversation is written and read back, and how much of it fits. Knows no page and no model.
"""
