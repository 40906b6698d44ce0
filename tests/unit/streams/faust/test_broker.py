"""Faust logs in to Kafka as the other clients do."""

from __future__ import annotations

import ssl

import pytest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from pydantic import SecretStr

from schemas.kafka_access import KafkaAccess, SaslMechanism, SecurityProtocol
from streams.faust.broker import broker_options


@pytest.mark.parametrize("mechanism", list(SaslMechanism))
@pytest.mark.parametrize("protocol", list(SecurityProtocol))
def test_protocol_and_mechanism_reach_aiokafka(protocol: SecurityProtocol, mechanism: SaslMechanism) -> None:
    access = KafkaAccess("a:1, b:2", protocol, mechanism, username="u", password=SecretStr("p"))
    options = broker_options(access)
    assert options["broker"] == "kafka://a:1;kafka://b:2"
    found = credentials_to_aiokafka_auth(options["broker_credentials"])
    assert found["security_protocol"] == protocol
    if protocol.has_sasl:
        assert (found["sasl_mechanism"], found["sasl_plain_username"], found["sasl_plain_password"]) == (
            mechanism,
            "u",
            "p",
        )
    if protocol.has_tls:
        context = found["ssl_context"]
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
