"""The library of prefixes as the page uses it: cards read and written, prefixes taken from hubs and zips. No Gradio."""
