"""The settings of the connection to Kafka: a part of `Settings` (schemas/settings.py)."""

from __future__ import annotations

from typing import Self

from pydantic import field_validator, model_validator
from pydantic_settings import BaseSettings

from schemas.environment import OptionalPath, OptionalSecret
from schemas.kafka_access import KafkaAccess, SaslMechanism, SecurityProtocol, parse_kafka_config


class KafkaSettings(BaseSettings):
    """How all processes reach Kafka. `kafka` is the value that clients are built from (eventlog/client.py)."""

    kafka_bootstrap: str
    """host:port of brokers, separated by commas."""
    kafka_security_protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    kafka_sasl_mechanism: SaslMechanism = SaslMechanism.SCRAM_SHA_512
    kafka_sasl_username: str = ""
    kafka_sasl_password: OptionalSecret = None
    kafka_ssl_ca: OptionalPath = None
    """PEM file with the brokers' certificate authority. By default the system's certificate authorities."""
    kafka_ssl_cert: OptionalPath = None
    """PEM file with the client's certificate (mutual TLS), and `kafka_ssl_key` with its key."""
    kafka_ssl_key: OptionalPath = None
    kafka_ssl_key_password: OptionalSecret = None
    kafka_config: str = ""
    """More properties for librdkafka, as `name=value,name=value`. Faust uses two of them (streams/faust/broker.py)."""

    @field_validator("kafka_sasl_mechanism", mode="before")
    @classmethod
    def _no_tokens(cls, given: object) -> object:
        if given == "OAUTHBEARER":
            raise ValueError("OAUTHBEARER is not supported: aiokafka does not log in again when its token expires")
        return given

    @field_validator("kafka_config")
    @classmethod
    def _kafka_config_is_readable(cls, given: str) -> str:
        parse_kafka_config(given)
        return given

    @model_validator(mode="after")
    def _kafka_settings_fit_together(self) -> Self:
        self.kafka.check()
        return self

    @property
    def kafka(self) -> KafkaAccess:
        return KafkaAccess(
            self.kafka_bootstrap,
            protocol=self.kafka_security_protocol,
            mechanism=self.kafka_sasl_mechanism,
            username=self.kafka_sasl_username,
            password=self.kafka_sasl_password,
            ssl_ca=self.kafka_ssl_ca,
            ssl_cert=self.kafka_ssl_cert,
            ssl_key=self.kafka_ssl_key,
            ssl_key_password=self.kafka_ssl_key_password,
            config=parse_kafka_config(self.kafka_config),
        )
