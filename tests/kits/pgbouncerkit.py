"""A real PgBouncer with its default settings in front of a test's database."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from local.stack.ports import free_port, is_free
from tests.waiting import wait_until

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")


@contextmanager
def pgbouncer(
    database_url: str, mode: str, *, sessions: int = 10, certificate: tuple[str, str] | None = None
) -> Iterator[str]:
    """Yield the address of a PgBouncer with this `pool_mode` and this number of server sessions.

    `certificate` (its text and that of its key) makes it accept TLS connections only.
    """
    assert PROGRAM is not None
    parts, port = urlsplit(database_url), free_port()
    folder = Path(tempfile.mkdtemp(prefix="billing-pgbouncer-"))
    folder.chmod(0o755)
    (folder / "pgbouncer.ini").write_text(
        "[databases]\n"
        f"pooled = host={parts.hostname} port={parts.port} dbname={parts.path[1:]} user={parts.username} "
        f"password='{unquote(parts.password or '')}'\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = {mode}\ndefault_pool_size = {sessions}\nmax_client_conn = 200\n"
    )
    if certificate is not None:
        for name, text in zip(("server.crt", "server.key"), certificate, strict=True):
            (folder / name).write_text(text)
        with (folder / "pgbouncer.ini").open("a") as config:
            config.write(
                f"client_tls_sslmode = require\nclient_tls_cert_file = {folder}/server.crt\n"
                f"client_tls_key_file = {folder}/server.key\n"
            )
    command = [PROGRAM, "-q", str(folder / "pgbouncer.ini")]
    if os.getuid() == 0:  # it refuses to run as root
        command[1:1] = ["-u", "nobody"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: not is_free(port), "pgbouncer", process=process, log=folder / "log")
        yield f"postgresql://{parts.username}@127.0.0.1:{port}/pooled"
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)
        shutil.rmtree(folder)
