"""Metrics: pure functions on arrays, one family per file."""
