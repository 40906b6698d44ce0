"""Applies the log to an empty database, and compares two databases."""
