"""TLS with a self-made certificate: it is checked as the URL says. PgBouncer speaks TLS for the tests' Postgres."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from schemas.settings import InvalidSettings
from sinks.postgres.pool import TlsRefused, connect
from sinks.postgres.schema_check import SchemaCheck
from tests.kits.pgbouncerkit import needs_pgbouncer, pgbouncer

pytestmark = [
    needs_pgbouncer,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A new self-signed certificate for `localhost`, and its key."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
        timeout=30,
    )  # fmt: skip
    return certificate, key


@pytest.fixture
def place(database: SecretStr, tmp_path: Path) -> Iterator[str]:
    """The address of a server with the certificate `right.crt` in `tmp_path`; `wrong.crt` is another one."""
    certificate, key = _certificate(tmp_path, "right")
    _certificate(tmp_path, "wrong")
    texts = (certificate.read_text(), key.read_text())
    with pgbouncer(database.get_secret_value(), "session", certificate=texts) as url:
        yield url.replace("127.0.0.1", "localhost")


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_the_right_certificate_is_accepted(place: str, tmp_path: Path, mode: str) -> None:
    url = SecretStr(f"{place}?sslmode={mode}&sslrootcert={tmp_path}/right.crt")
    session = await connect(url, application="test")
    assert session.has_tls
    assert await session.fetchval("SELECT 1") == 1
    await session.close()


async def test_a_certificate_of_another_authority_is_refused(place: str, tmp_path: Path) -> None:
    for mode in ("verify-ca", "verify-full"):
        with pytest.raises(TlsRefused, match="certificate") as refused:
            await connect(SecretStr(f"{place}?sslmode={mode}&sslrootcert={tmp_path}/wrong.crt"), application="test")
        assert isinstance(refused.value, InvalidSettings)  # a start ends with exit code 2
        assert "\n" not in str(refused.value)


async def test_a_certificate_for_another_host_is_refused(place: str, tmp_path: Path) -> None:
    other = place.replace("localhost", "127.0.0.1")
    with pytest.raises(TlsRefused, match="certificate"):
        await connect(SecretStr(f"{other}?sslmode=verify-full&sslrootcert={tmp_path}/right.crt"), application="test")


async def test_a_missing_root_certificate_is_named(place: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"sslrootcert: cannot read .*absent\.crt"):
        await connect(SecretStr(f"{place}?sslmode=verify-full&sslrootcert={tmp_path}/absent.crt"), application="test")


@pytest.mark.parametrize(("query", "state"), [("?sslmode=require", "on (sslmode=require)"), ("", "off")])
async def test_a_start_logs_the_state(place: str, database: SecretStr, query: str, state: str) -> None:
    url = SecretStr(f"{place}{query}") if query else database
    with capture_logs() as logs:
        assert await SchemaCheck(url)._look() is None
    assert [entry["tls"] for entry in logs if entry["action"] == "database.connected"] == [state]
