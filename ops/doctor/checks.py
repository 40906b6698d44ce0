"""All checks of `billing doctor`, in the order in which they are shown."""

from __future__ import annotations

from ops.doctor.adoption_checks import check_adoption
from ops.doctor.config_checks import check_config, check_mails, check_schedules, check_secrets
from ops.doctor.findings import Check
from ops.doctor.kafka_checks import check_kafka
from ops.doctor.postgres_checks import check_postgres
from ops.doctor.smtp_checks import check_smtp
from ops.doctor.stripe_checks import check_stripe

CHECKS = (
    Check("config", check_config, "correct the file that BILLING_CONFIG names; config.example.toml has every table"),
    Check("secrets", check_secrets, "copy the signing secret of each endpoint from Stripe's dashboard"),
    Check("mails", check_mails, "correct [mail] in the config"),
    Check("schedules", check_schedules, "set BILLING_STRIPE_API_KEY for the scheduler"),
    Check("kafka", check_kafka, "start Kafka, or correct BILLING_KAFKA_*: docs/operations.md"),
    Check("postgres", check_postgres, "start Postgres, or correct BILLING_DATABASE_URL: docs/operations.md"),
    Check("smtp", check_smtp, "start the mail server, or correct BILLING_SMTP_URL"),
    Check("stripe", check_stripe, "correct BILLING_STRIPE_API_KEY, or allow connections to Stripe's API"),
    Check("adoption", check_adoption, "docs/going-live.md, From another handler"),
)
NAMES = tuple(check.name for check in CHECKS)
