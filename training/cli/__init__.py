"""The command line: flags to settings, progress and results to a terminal. The only room that prints."""
