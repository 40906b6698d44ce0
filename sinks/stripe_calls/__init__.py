"""The outbox of calls to Stripe's API, and its dispatcher."""
