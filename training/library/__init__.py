"""A library of prefixes: each may have a name, a card and tags; found by words, taken to a hub or a zip and back.

Knows what belongs to a prefix that is handed on, and checks what comes from elsewhere. Knows no base model's weights.
"""
