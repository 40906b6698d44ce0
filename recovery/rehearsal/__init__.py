"""Rehearsing a replay: what the rules of this version would do with events, without doing it."""
