"""Probes: what a model finds likely, told without letting it say anything, and how sure the figures are.

Knows letters of multiple-choice questions, counterfactual pairs, distance from the base, and the balance of data over
the same attributes. Takes a model that is in memory. Knows no report and no page.
"""
