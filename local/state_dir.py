"""What `billing up` keeps in its state directory: who runs there, the config and the environment it hands out."""

from __future__ import annotations

import fcntl
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Self

import psutil

from local.stack.process import find, write_own_pid

_CONFIG = """\
# Written by `billing up` at its first start here; yours to change. BILLING_CONFIG names another.

[endpoints.default]
mode = "test"
secrets = ["{default_secret}"]

[endpoints.live]
mode = "live"
secrets = ["{live_secret}"]

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
send_test_mode = true  # it ends in the mailbox of this directory
"""


class AlreadyRunning(Exception):
    """Another process runs a system in this state directory."""


class Claim:
    """The right to run in a state directory: a lock that the kernel drops when its holder dies, and a pid file."""

    def __init__(self, state_dir: Path) -> None:
        self._lock_file = state_dir / "run" / "up.lock"
        self._pid_file = state_dir / "run" / "up.owner"
        self._ready_file = state_dir / "run" / "ready"
        self._held: IO[str] | None = None

    def take(self) -> Self:
        """Raises AlreadyRunning."""
        make_private(self._lock_file.parent.parent)
        self._lock_file.parent.mkdir(exist_ok=True)
        file = self._lock_file.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise AlreadyRunning(f"already running in {self._lock_file.parent.parent}") from None
        self._held = file
        self._ready_file.unlink(missing_ok=True)
        write_own_pid(self._pid_file)
        return self

    def drop(self) -> None:
        """Let the next one in."""
        if self._held is not None:
            self._ready_file.unlink(missing_ok=True)
            self._pid_file.unlink(missing_ok=True)
            self._held.close()
            self._held = None

    def is_taken(self) -> bool:
        """Whether somebody holds it now."""
        if not self._lock_file.exists():
            return False
        with self._lock_file.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def mark_ready(self) -> None:
        """Note that all has been started."""
        self._ready_file.touch()

    def is_ready(self) -> bool:
        """Whether the holder has started all."""
        return self._ready_file.exists() and self.is_taken()

    def owner(self) -> psutil.Process | None:
        """The process that holds it, if it can be told."""
        return find(self._pid_file)


def make_private(state_dir: Path) -> None:
    """The directory, entered by its owner only: it holds customers' mail, logs and data."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_private(path: Path, text: str) -> None:
    """A file that only its owner reads, replaced in one step."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)


def own_config(state_dir: Path) -> Path:
    """`STATE_DIR/config.toml`, made with fresh secrets where there is none; an older one gets the `[mail]` it lacks."""
    path = state_dir / "config.toml"
    if not path.exists():
        fresh = {name: f"whsec_{secrets.token_hex(24)}" for name in ("default_secret", "live_secret")}
        write_private(path, _CONFIG.format(**fresh) + _MAIL)
    elif "[mail]" not in (written := path.read_text()):
        write_private(path, written + _MAIL)
    return path


def link_secret(state_dir: Path) -> str:
    """`STATE_DIR/link_secret`, made where there is none: links in mails outlive a restart."""
    path = state_dir / "link_secret"
    if not path.exists():
        write_private(path, secrets.token_hex(32))
    return path.read_text()


def write_env(state_dir: Path, values: Mapping[str, str]) -> None:
    """`STATE_DIR/env`: shell lines, for `set -a; . STATE_DIR/env`."""
    lines = [f"{key}={shlex.quote(value)}\n" for key, value in values.items()]
    write_private(state_dir / "env", "".join(lines))
