"""Loggers of a run: metrics.csv and TensorBoard events."""
