"""Faust's options for the connection to Kafka. aiokafka logs in as the other clients do (eventlog/client.py)."""

from __future__ import annotations

from typing import Any

from faust.auth import SASLCredentials, SSLCredentials

from schemas.kafka_access import KafkaAccess, Property
from schemas.settings import InvalidSettings

SHARED = ("connections.max.idle.ms", "metadata.max.age.ms")
"""librdkafka's properties of a connection that Faust has as well, for its consumer and for its producer."""


def broker_options(access: KafkaAccess) -> dict[str, Any]:
    """Returns a Faust app's options for the brokers, the login and the connection.

    Raises OSError if a TLS file is unusable, and InvalidSettings if a property is not a number.
    """
    url = ";".join(f"kafka://{address.strip()}" for address in access.bootstrap.split(","))
    given = {**access.config, **access.properties()}
    shared = {
        f"{side}_{name.replace('.', '_')}": _number(name, given[name])
        for name in SHARED
        if name in given
        for side in ("consumer", "producer")
    }
    return {"broker": url, "broker_credentials": _credentials(access), **shared}


def _number(name: str, value: Property) -> int:
    try:
        return int(value)
    except ValueError:
        raise InvalidSettings(f"BILLING_KAFKA_CONFIG: {name} is not a whole number") from None


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
