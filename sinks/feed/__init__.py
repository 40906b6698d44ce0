"""The outbox of notifications to the customer's application, and its dispatcher (behaviours.md F3)."""
