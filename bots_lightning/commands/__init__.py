"""What `bots-lightning` runs: one module for each command, and how they read their options."""
