"""Several runs side by side: what they hold, tests of their differences, tables and pictures."""
