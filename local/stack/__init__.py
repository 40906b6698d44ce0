"""The embedded servers: Kafka, Postgres and a mailbox, and the supervisor that runs them."""
