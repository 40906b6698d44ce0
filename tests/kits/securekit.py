"""A broker with TLS, SCRAM and ACLs, and the certificates of a test's own authority (made by openssl)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from eventlog import client
from local.stack.kafka import EmbeddedKafka
from local.stack.kafka_security import SecureListeners
from schemas.kafka_access import KafkaAccess
from tests.paths import ROOT

USER, PASSWORD = "billing", "billing-password-1"
KEY_PASSWORD = "key-password-1"
MTLS_USER = "CN=billing-mtls"

Acl = tuple[ResourceType, str, ResourcePatternType, AclOperation]


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority in a folder."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, name: str = "test-ca") -> Authority:
        folder.mkdir(parents=True, exist_ok=True)
        _openssl(
            folder, "req", "-x509", *_NEW_KEY, "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", "ca.key", "-out", "ca.pem",
        )  # fmt: skip
        return cls(folder)

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, name: str, *, password: str = "") -> tuple[Path, Path]:
        """Makes a certificate for the host 127.0.0.1 and the user CN=`name`. Returns its file and the key's."""
        key_options = ["-passout", f"pass:{password}"] if password else ["-nodes"]
        _openssl(
            self.folder, "req", *_NEW_KEY, *key_options, "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.csr",
        )  # fmt: skip
        (self.folder / "hosts.cnf").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        _openssl(
            self.folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "hosts.cnf", "-out", f"{name}.pem",
        )  # fmt: skip
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=30)


@dataclass(frozen=True, slots=True)
class SecuredKafka:
    """A running broker that only lets in users it knows."""

    kafka: EmbeddedKafka
    authority: Authority
    folder: Path

    @property
    def plain(self) -> KafkaAccess:
        """The listener without login, for the test's own preparations."""
        return KafkaAccess(self.kafka.bootstrap)

    def address(self, listener: str) -> str:
        return self.kafka.nodes[0].secure_addresses[listener]

    def scram_environment(self, **other: str) -> dict[str, str]:
        """The settings of a process that logs in with SCRAM-SHA-512. `other` replaces some, by the name's end."""
        return _named(
            BOOTSTRAP=self.address("SASLSSL"),
            SECURITY_PROTOCOL="SASL_SSL",
            SASL_MECHANISM="SCRAM-SHA-512",
            SASL_USERNAME=USER,
            SASL_PASSWORD=PASSWORD,
            SSL_CA=str(self.authority.ca),
            **other,
        )

    def certificate_environment(self) -> dict[str, str]:
        """The settings of a process that logs in with a certificate."""
        certificate, key = self.authority.issue("billing-mtls", password=KEY_PASSWORD)
        return _named(
            BOOTSTRAP=self.address("MTLS"),
            SECURITY_PROTOCOL="SSL",
            SSL_CA=str(self.authority.ca),
            SSL_CERT=str(certificate),
            SSL_KEY=str(key),
            SSL_KEY_PASSWORD=KEY_PASSWORD,
        )

    def allow(self, user: str, acls: Iterable[Acl]) -> None:
        bindings = [
            AclBinding(kind, name, pattern, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
            for kind, name, pattern, operation in acls
        ]
        admin = client.admin(self.plain)  # its requests end with it
        for future in admin.create_acls(bindings).values():
            future.result(30)

    def add_user(self, user: str, password: str) -> None:
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(user, info, password.encode())
        admin = client.admin(self.plain)
        for future in admin.alter_user_scram_credentials([change]).values():
            future.result(30)


def documented_acls(prefix: str) -> list[Acl]:
    """Reads from docs/operations.md what all processes and `billing topics` need together."""
    page = (ROOT / "docs" / "operations.md").read_text()
    lines = page.partition("With ACLs, the users need")[2].lstrip().splitlines()[1:]
    table = [line.strip("|").split("|") for line in takewhile(lambda line: line.startswith("|"), lines[1:])]
    headings, rows = table[0], table[2:]
    found: set[Acl] = set()
    for row in rows:
        for heading, cell in zip(headings[1:], row[1:], strict=True):
            kind = ResourceType.GROUP if "group" in heading else ResourceType.TOPIC
            pattern = ResourcePatternType.PREFIXED if "(prefixed)" in heading else ResourcePatternType.LITERAL
            name = prefix + heading.split("`")[1].removeprefix("billing").rstrip("*")
            found |= {(kind, name, pattern, _OPERATIONS[word]) for word in re.findall("[A-Z][A-Za-z]+", cell)}
    return list(found)


_OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Create": AclOperation.CREATE,
    "Alter": AclOperation.ALTER,
    "AlterConfigs": AclOperation.ALTER_CONFIGS,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
}


def _named(**values: str) -> dict[str, str]:
    return {f"BILLING_KAFKA_{name}": value for name, value in values.items()}


@contextmanager
def secured_kafka(folder: Path) -> Iterator[SecuredKafka]:
    """Runs a broker with the user `billing` (SCRAM and PLAIN), who may do nothing yet."""
    authority = Authority.make(folder / "ca")
    certificate, key = authority.issue("broker")
    keystore = folder / "ca" / "broker-keystore.pem"
    keystore.write_text(certificate.read_text() + key.read_text())
    listeners = SecureListeners(keystore, authority.ca, {USER: PASSWORD})
    kafka = EmbeddedKafka(folder / "kafka", secure=listeners, session_s=60.0)  # as the shared broker (tests/stack.py)
    kafka.start()
    try:
        made = SecuredKafka(kafka, authority, folder)
        made.add_user(USER, PASSWORD)
        yield made
    finally:
        kafka.stop()
