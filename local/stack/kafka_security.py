"""Listeners of the embedded Kafka with TLS and logins, for tests of a secured broker.

Next to its plain listener, whose clients may do everything, the broker then has one with TLS and SASL and one that
demands a client's certificate. Their users may do only what ACLs allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from local.stack.ports import kept_port

_MODULES = {
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
}


@dataclass(frozen=True)
class SecureListeners:
    """The listeners SASLSSL and MTLS. Both files are PEM; the first has the broker's certificate and key."""

    keystore: Path
    truststore: Path
    """Certificate authority of the broker, and of the clients that log in with a certificate."""
    plain_users: Mapping[str, str] = field(default_factory=dict)
    """Password by user for the mechanism PLAIN. Users for SCRAM are stored in the cluster."""

    def addresses(self, state_dir: Path, node: str) -> dict[str, str]:
        """Returns host:port by the listener's name. The ports are kept in `state_dir`."""
        return {name: f"127.0.0.1:{kept_port(state_dir, f'{node}-{name.lower()}')}" for name in ("SASLSSL", "MTLS")}

    def properties(self) -> dict[str, str]:
        """Returns the broker's properties for the two listeners, without their addresses."""
        tls = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.truststore),
        }
        found = {f"listener.name.{name}.{key}": value for name in ("saslssl", "mtls") for key, value in tls.items()}
        users = "".join(f' user_{user}="{password}"' for user, password in self.plain_users.items())
        for mechanism, module in _MODULES.items():
            options = users if mechanism == "PLAIN" else ""
            found[f"listener.name.saslssl.{mechanism.lower()}.sasl.jaas.config"] = f"{module} required{options};"
        return found | {
            "listener.name.saslssl.sasl.enabled.mechanisms": ",".join(_MODULES),
            "sasl.enabled.mechanisms": ",".join(_MODULES),
            "listener.name.mtls.ssl.client.auth": "required",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",  # clients of the plain listener, and the node itself
            "allow.everyone.if.no.acl.found": "false",
        }
