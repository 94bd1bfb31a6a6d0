"""Who may do what: visitors, the operator key, accounts, and how often somebody may try.

Knows no HTTP and no Gradio: `app.web` says who asks and from where, and does what is decided here.
"""
