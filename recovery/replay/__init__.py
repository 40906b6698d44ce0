"""Append dead letters or stored events to the log again."""
