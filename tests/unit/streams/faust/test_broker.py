"""Faust logs in to Kafka as the other clients do."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from pydantic import SecretStr

from schemas.kafka_access import KafkaAccess, SaslMechanism, SecurityProtocol
from schemas.settings import InvalidSettings, Settings
from streams.faust.app import create_app
from streams.faust.broker import SHARED, broker_options


def test_a_property_that_faust_has_reaches_its_consumer_and_its_producer(tmp_path: Path) -> None:
    config = ",".join(f"{name}=180000" for name in (*SHARED, "retry.backoff.ms"))
    settings = Settings.model_construct(kafka_bootstrap="a:1", state_dir=tmp_path, kafka_config=config)
    app = create_app(settings, "g", 1)
    assert (app.conf.consumer_connections_max_idle_ms, app.conf.producer_connections_max_idle_ms) == (180000, 180000)
    assert (app.conf.consumer_metadata_max_age_ms, app.conf.producer_metadata_max_age_ms) == (180000, 180000)


def test_a_property_that_is_no_number_is_an_invalid_setting() -> None:
    with pytest.raises(InvalidSettings, match=r"metadata\.max\.age\.ms is not a whole number"):
        broker_options(KafkaAccess("a:1", config={"metadata.max.age.ms": "soon"}))


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
