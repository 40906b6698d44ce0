"""The state directory of `billing up`: the lock of the running system, the config, and the environment file."""

from __future__ import annotations

import fcntl
import os
import secrets
import shlex
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Self

import psutil

from local.stack.process import find, write_own_pid
from schemas.errors import BillingError

_CONFIG = """\
# Written by `billing up` at its first start in this folder. You can edit it, or use another with BILLING_CONFIG.

mode = "test"

[endpoints.default]
secrets = ["{secret}"]

[plans.free]
name = "Free"
limits = {{ seats = 1, projects = 3 }}

[plans.starter]
name = "Starter"
prices = ["price_starter_monthly", "price_starter_yearly"]
limits = {{ seats = 5, projects = 20 }}

[plans.pro]
name = "Pro"
prices = ["price_pro_monthly", "price_pro_yearly"]
limits = {{ seats = 50, projects = 500 }}
"""

_MAIL = """
[mail]
send_test_mode = true  # mails go to the mailbox in this directory
"""


_PRIVATE = 0o077
"""The access that is taken from the group and from others."""
_OURS = ("ports.json", "config.toml", "kafka-cluster-id", "run/up.lock")
"""Files of a state directory, also of an earlier version: one of them tells it from any other directory."""


class AlreadyRunning(BillingError):
    """Another process runs a system in this state directory."""


class ForeignDirectory(BillingError):
    """The directory belongs to another user, who could read and change what is written there, or has another use."""


class Claim:
    """The right to run in a state directory: a lock that the kernel releases when its holder dies, and a pid file.

    While it is held, all files of this process and of its children are made for their owner only.
    """

    def __init__(self, state_dir: Path) -> None:
        self._lock_file = state_dir / "run" / "up.lock"
        self._pid_file = state_dir / "run" / "up.owner"
        self._ready_file = state_dir / "run" / "ready"
        self._held: IO[str] | None = None
        self._umask = 0

    def take(self, say: Callable[[str], None] = lambda _: None) -> Self:
        """Take the lock. `say` is called with a line for the user. Raises AlreadyRunning, ForeignDirectory."""
        make_private(self._lock_file.parent.parent, say)
        before = os.umask(_PRIVATE)
        self._lock_file.parent.mkdir(exist_ok=True)
        file = self._lock_file.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            os.umask(before)
            raise AlreadyRunning(f"already running in {self._lock_file.parent.parent}") from None
        self._held = file
        self._umask = before
        self._ready_file.unlink(missing_ok=True)
        write_own_pid(self._pid_file)
        return self

    def drop(self) -> None:
        """Release the lock."""
        if self._held is not None:
            self._ready_file.unlink(missing_ok=True)
            self._pid_file.unlink(missing_ok=True)
            self._held.close()
            self._held = None
            os.umask(self._umask)

    def is_taken(self) -> bool:
        """Whether a process holds the lock now."""
        if not self._lock_file.exists():
            return False
        with self._lock_file.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def mark_ready(self) -> None:
        """Record that the whole system has started."""
        self._ready_file.touch()

    def is_ready(self) -> bool:
        """Whether the holder has started the whole system."""
        return self._ready_file.exists() and self.is_taken()

    def owner(self) -> psutil.Process | None:
        """Return the process that holds the lock, None if it cannot be found."""
        return find(self._pid_file)


def make_private(state_dir: Path, say: Callable[[str], None] = lambda _: None) -> None:
    """Make the directory accessible for its owner only: it contains customers' mails, logs and data.

    It is created with the parents that are missing, or closed if it exists, and `say` is called with a line about that.
    A directory that is meant for all users (/tmp) stays as it is. Raises ForeignDirectory if it belongs to another user
    (root may use it, and it stays as it is), or if it is open and holds other files: closing /var/lib ends a machine.
    """
    before = os.umask(_PRIVATE)
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    finally:
        os.umask(before)
    found = state_dir.stat()
    if found.st_uid != os.geteuid():
        if os.geteuid() != 0:
            raise ForeignDirectory(f"{state_dir} belongs to another user; choose one of your own with --state-dir")
    elif found.st_mode & _PRIVATE and not found.st_mode & stat.S_ISVTX:
        if any(state_dir.iterdir()) and not any((state_dir / name).exists() for name in _OURS):
            raise ForeignDirectory(f"{state_dir} holds other files; choose an empty directory with --state-dir")
        state_dir.chmod(stat.S_IMODE(found.st_mode) & ~_PRIVATE)
        say(f"Closed {state_dir} to other users: it contains customers' data")


def open_private(path: Path) -> IO[bytes]:
    """Open a file for writing that only its owner can read, emptied."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read. It is replaced atomically."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)


def own_config(state_dir: Path) -> Path:
    """Return `STATE_DIR/config.toml`. Creates it with a new secret if missing, and adds `[mail]` to an old one."""
    path = state_dir / "config.toml"
    if not path.exists():
        write_private(path, _CONFIG.format(secret=f"whsec_{secrets.token_hex(24)}") + _MAIL)
    elif "[mail]" not in (written := path.read_text()):
        write_private(path, written + _MAIL)
    return path


def link_secret(state_dir: Path) -> str:
    """Return the secret in `STATE_DIR/link_secret`. It is stored so that links in mails stay valid after a restart."""
    path = state_dir / "link_secret"
    if not path.exists():
        write_private(path, secrets.token_hex(32))
    return path.read_text()


def write_env(state_dir: Path, values: Mapping[str, str]) -> None:
    """Write `STATE_DIR/env` as shell lines, for `set -a; . STATE_DIR/env`."""
    lines = [f"{key}={shlex.quote(value)}\n" for key, value in values.items()]
    write_private(state_dir / "env", "".join(lines))
