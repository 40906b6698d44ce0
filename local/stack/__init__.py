"""The embedded parts: Kafka, Postgres, a mailbox, and the supervisor that runs them."""
