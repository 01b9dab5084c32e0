"""Pass rates that `predict` has measured: files, the journal that survives kills, a summary."""
