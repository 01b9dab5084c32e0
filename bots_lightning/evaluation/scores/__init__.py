"""Measures: held-out scores, the diversity of a selection, the quality of a belief."""
