"""Rules of the stream `subscriptions` (behaviours.md B1, B3, B4, B5)."""
