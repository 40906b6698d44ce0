"""Names of the Postgres notification channels that wake the outbox dispatchers and the scheduler."""

EMAILS_CHANNEL = "billing_emails"


STRIPE_CALLS_CHANNEL = "billing_stripe_calls"


TIMERS_CHANNEL = "billing_timers"
