"""The Gradio page: chat base and tuned side by side, train, and pick checkpoints.

Knows Gradio, ``training`` and ``chatglm2``. Holds no logic that could live without a browser.
"""
