"""Several runs compared: their records, measures of their differences, tables and pictures."""
