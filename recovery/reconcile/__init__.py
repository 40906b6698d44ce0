"""Compare with Stripe: events that never arrived, objects that differ."""
