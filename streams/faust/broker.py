"""Faust's options for the connection to Kafka. aiokafka logs in as the other clients do (eventlog/client.py)."""

from __future__ import annotations

from typing import Any

from faust.auth import SASLCredentials, SSLCredentials

from schemas.kafka_access import KafkaAccess


def broker_options(access: KafkaAccess) -> dict[str, Any]:
    """Returns `broker` and `broker_credentials` for a Faust app. Raises OSError if a TLS file is unusable."""
    url = ";".join(f"kafka://{address.strip()}" for address in access.bootstrap.split(","))
    return {"broker": url, "broker_credentials": _credentials(access)}


def _credentials(access: KafkaAccess) -> SASLCredentials | SSLCredentials | None:
    context = access.ssl_context()
    if access.protocol.has_sasl:
        # With a context Faust uses SASL_SSL, without one SASL_PLAINTEXT.
        return SASLCredentials(
            username=access.username,
            password=access.password.get_secret_value() if access.password else "",
            ssl_context=context,
            mechanism=access.mechanism.value,
        )
    return SSLCredentials(context) if context is not None else None
