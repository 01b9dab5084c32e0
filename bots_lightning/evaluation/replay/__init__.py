"""Selectors on recorded runs: what each would have chosen, and how well it would have predicted."""
