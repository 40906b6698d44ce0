"""Example events in Stripe's format, and a function that posts them signed."""
