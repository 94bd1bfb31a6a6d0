"""Parts of the Train tab, a file each; `app.tabs.train` puts them together."""
