"""The outboxes: one declaration for each."""

EMAILS_CHANNEL = "billing_emails"


STRIPE_CALLS_CHANNEL = "billing_stripe_calls"


TIMERS_CHANNEL = "billing_timers"
