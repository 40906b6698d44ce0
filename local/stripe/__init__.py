"""Example events as Stripe sends them, and a signed post."""
