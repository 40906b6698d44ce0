"""How every client reaches Kafka: addresses, security, and the properties that an operator may set."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pydantic import SecretStr

Property = str | int | float | bool


class SecurityProtocol(StrEnum):
    """Kafka's `security.protocol`."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"

    @property
    def has_tls(self) -> bool:
        return self in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL)

    @property
    def has_sasl(self) -> bool:
        return self in (SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL)


class SaslMechanism(StrEnum):
    """The mechanisms that all clients here support."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


@dataclass(frozen=True, slots=True)
class KafkaAccess:
    """The brokers and the way to log in. Files are PEM. Without `ssl_ca` the system's CA certificates are used."""

    bootstrap: str
    """host:port of each broker, separated by commas."""
    protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    mechanism: SaslMechanism = SaslMechanism.SCRAM_SHA_512
    username: str = ""
    password: SecretStr | None = None
    ssl_ca: Path | None = None
    ssl_cert: Path | None = None
    ssl_key: Path | None = None
    ssl_key_password: SecretStr | None = None
    config: Mapping[str, str] = field(default_factory=dict)
    """Properties for librdkafka from BILLING_KAFKA_CONFIG. Faust uses those that it knows (streams/faust/broker.py)."""

    def properties(self) -> dict[str, Property]:
        """Returns librdkafka's properties for the connection. They contain the password: never log them."""
        found: dict[str, Property] = {"bootstrap.servers": self.bootstrap, "security.protocol": self.protocol.value}
        if self.protocol.has_sasl:
            found["sasl.mechanism"] = self.mechanism.value
            found["sasl.username"] = self.username
            found["sasl.password"] = self.password.get_secret_value() if self.password else ""
        if self.protocol.has_tls:
            files = {
                "ssl.ca.location": self.ssl_ca,
                "ssl.certificate.location": self.ssl_cert,
                "ssl.key.location": self.ssl_key,
            }
            found |= {name: str(path) for name, path in files.items() if path is not None}
            if self.ssl_key_password is not None:
                found["ssl.key.password"] = self.ssl_key_password.get_secret_value()
        return found

    def check(self) -> None:
        """Raises ValueError if the settings contradict each other; the message names them, and no secret."""
        protocol = f"BILLING_KAFKA_SECURITY_PROTOCOL={self.protocol}"
        if "://" in self.bootstrap:
            raise ValueError("BILLING_KAFKA_BOOTSTRAP is host:port, and BILLING_KAFKA_SECURITY_PROTOCOL the protocol")
        if self.protocol.has_sasl and not (self.username and self.password):
            raise ValueError(f"{protocol} needs BILLING_KAFKA_SASL_USERNAME and BILLING_KAFKA_SASL_PASSWORD")
        if not self.protocol.has_sasl and (self.username or self.password):
            raise ValueError(f"BILLING_KAFKA_SASL_USERNAME and _PASSWORD need SASL, but {protocol}")
        if not self.protocol.has_tls and (self.ssl_ca or self.ssl_cert or self.ssl_key or self.ssl_key_password):
            raise ValueError(f"BILLING_KAFKA_SSL_* need TLS, but {protocol}")
        if self.ssl_key is not None and self.ssl_cert is None:
            raise ValueError("BILLING_KAFKA_SSL_KEY needs BILLING_KAFKA_SSL_CERT")
        if self.ssl_cert is not None and self.ssl_key is None:
            raise ValueError("BILLING_KAFKA_SSL_CERT needs BILLING_KAFKA_SSL_KEY")
        if self.protocol.has_tls:
            self._check_files()

    def _check_files(self) -> None:
        named = {"SSL_CA": self.ssl_ca, "SSL_CERT": self.ssl_cert, "SSL_KEY": self.ssl_key}
        for name, path in named.items():
            if path is None:
                continue
            try:
                with path.open("rb"):
                    pass
            except OSError as error:
                raise ValueError(f"BILLING_KAFKA_{name}: {path}: {error.strerror or error}") from None
        try:
            self.ssl_context()
        except OSError as error:  # ssl.SSLError is one
            given = ", ".join(f"BILLING_KAFKA_{name}" for name, path in named.items() if path is not None)
            raise ValueError(f"the files of {given} cannot be used: {error.strerror or error}") from None

    def ssl_context(self) -> ssl.SSLContext | None:
        """Returns the context for Faust's clients, None without TLS. Raises OSError (ssl.SSLError: unusable files)."""
        if not self.protocol.has_tls:
            return None
        context = ssl.create_default_context(cafile=str(self.ssl_ca) if self.ssl_ca else None)
        if self.ssl_cert is not None:
            password = self.ssl_key_password.get_secret_value() if self.ssl_key_password else ""
            # A function: without one, OpenSSL would ask for a missing password on the terminal.
            context.load_cert_chain(self.ssl_cert, self.ssl_key, password=lambda: password)
        return context

    @property
    def is_plain_beyond_loopback(self) -> bool:
        """Whether events cross a network without TLS."""
        return not self.protocol.has_tls and not all(map(_is_loopback, self.bootstrap.split(",")))


def _is_loopback(address: str) -> bool:
    host = address.strip().rpartition("://")[2].rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_FIXED_PREFIXES = ("sasl.", "ssl.", "enable.", "security.", "log", "plugin.", "group.", "transactional.", "https.")
_FIXED = frozenset(
    {
        "acks",
        "auto.offset.reset",
        "bootstrap.servers",
        "client.id",
        "debug",
        "delivery.timeout.ms",
        "isolation.level",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
        "message.max.bytes",
        "message.send.max.retries",
        "message.timeout.ms",
        "metadata.broker.list",
        "partitioner",
        "queue.buffering.max.messages",
        "request.required.acks",
        "retries",
        "test.mock.num.brokers",
        "auto.commit.enable",
        "auto.commit.interval.ms",
        "offset.store.method",
        "message.copy.max.bytes",
        "opaque",
    }
)
"""Properties that durability, order, security or the logs rely on. They have settings of their own, or no choice."""


_PROPERTY = re.compile(r"[a-z][a-z0-9._]{1,60}")


def parse_kafka_config(text: str) -> dict[str, str]:
    """Returns the properties of `k=v,k=v`. Raises ValueError; the message names the property, not its value."""
    found: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not name or not equals or not value:
            # Without the text: it may be a password without its name.
            named = name if equals and _PROPERTY.fullmatch(name) else "an entry"
            raise ValueError(f"{named} is not of the form name=value")
        if name in _FIXED or name.startswith(_FIXED_PREFIXES) or name.endswith("_cb"):
            raise ValueError(f"{name} cannot be set here: durability or security relies on it, or it has a setting")
        if name in found:
            raise ValueError(f"{name} is set twice")
        found[name] = value
    return found
