"""Requests of people about their data: `billing erase` and `billing export` (behaviours.md B6)."""
