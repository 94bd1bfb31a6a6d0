"""What things look like: HTML, charts, menus and forms. Starts nothing."""
