"""The web server around the page, and what it lets through."""
