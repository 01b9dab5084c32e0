"""Replay of recorded runs: what each selector would have chosen, and how well its belief would have predicted."""
