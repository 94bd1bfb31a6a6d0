"""What a prefix learns and what it forgets, over ``--keep`` and over its strength: measured, and drawn for the docs.

Knows the demo model's examination (`tools.demo_model.forgetting`); does not know how a training works.
"""
