"""Compares the tables with Stripe over a window: they agree, or differences are listed (behaviours.md D11)."""
