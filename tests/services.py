"""Keeps a broker and a Postgres running between test runs: `make services` starts them, pytest finds them.

Every test has its own database and its own topic prefix, so runs can share the servers, also at the same time.
`python -m tests.services start|stop`; the folder is BILLING_TEST_SERVICES, by default one per user below the system's
temporary folder. The servers stop with `stop`, or after twelve hours.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

LIFETIME_S = 12 * 3600
_ANSWERS_WITHIN_S = 5.0
NAMES = ("kafka", "postgres")
USAGE = """usage: python -m tests.services start|stop

start  keep a broker and a Postgres running for pytest, for at most twelve hours
stop   end them"""


def folder() -> Path:
    """Where the running servers are noted."""
    given = os.environ.get("BILLING_TEST_SERVICES")
    return Path(given) if given else Path(tempfile.gettempdir()) / f"billing-test-services-{os.getuid()}"


def note(place: Path, name: str, url: str) -> None:
    """Note a server's address in a folder, readable for its owner only: it may contain a password."""
    draft = place / f"{name}.url.tmp"
    draft.touch(mode=0o600)
    draft.write_text(url)
    draft.replace(place / f"{name}.url")


def noted(place: Path, name: str) -> str | None:
    """The address that is noted in a folder, else None."""
    try:
        return (place / f"{name}.url").read_text()
    except FileNotFoundError:
        return None


def running(name: str) -> str | None:
    """The address of a server that `make services` started and that answers, else None."""
    note = folder() / f"{name}.url"
    try:
        if note.stat().st_uid != os.getuid():
            return None
        url = note.read_text()
    except FileNotFoundError:
        return None
    parts = urlsplit(url if "//" in url else f"//{url}")
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 0), timeout=_ANSWERS_WITHIN_S):
            return url
    except OSError:
        return None


def main(words: Sequence[str]) -> int:
    """Start or stop the servers. Starting again does nothing where they answer. Returns 2 for any other word."""
    if list(words) not in (["start"], ["stop"]):
        print(USAGE, file=sys.stderr)  # noqa: T201 - a command's output
        return 0 if list(words) in (["-h"], ["--help"]) else 2
    from tests import stack  # the embedded servers' imports, only needed here

    place = folder()
    if words[0] == "stop":
        stack.stop_all(place)
        return 0
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The holders stop when this process has ended, so that nothing runs without a limit.
    owner = subprocess.Popen(["sleep", str(LIFETIME_S)], start_new_session=True)
    for name in NAMES:
        if running(name) is None:
            (place / f"{name}.url").unlink(missing_ok=True)
            stack.address(name, place, owner.pid)
        print(f"{name}: {running(name)}")  # noqa: T201 - a command's output
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
