"""Chooses loopback ports for the local servers, once per state directory, and stores them there."""

from __future__ import annotations

import json
import random
import socket
import threading
from pathlib import Path

from schemas.errors import BillingError

_LOWEST = 15_000
_HIGHEST = 32_000
_TRIES = 200
_CHOOSING = threading.Lock()
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class NoFreePort(BillingError):
    """No free loopback port was found."""


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that is free now. Raises NoFreePort.

    The port is below the kernel's ephemeral range. While a killed server is down, the kernel may give a port inside
    that range to any outgoing connection, and a client that keeps retrying can even connect to itself on it.
    """
    highest = min(_HIGHEST, _ephemeral_low() - 1)
    if highest <= _LOWEST:
        return _any_port()
    for port in random.sample(range(_LOWEST, highest), min(_TRIES, highest - _LOWEST)):
        if is_free(port):
            return port
    raise NoFreePort(f"no free port on 127.0.0.1 between {_LOWEST} and {highest}")


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set this too: it allows listening on a port that has old connections in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def kept_port(state_dir: Path, name: str, port: int | None = None) -> int:
    """Return the port of `name` in this state directory: `port` if given, else the stored one, else a free one."""
    with _CHOOSING:
        return _kept_port(state_dir / "ports.json", name, port)


def _kept_port(path: Path, name: str, port: int | None) -> int:
    ports: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    chosen = port or ports.get(name) or _free_port_not_in(ports)
    if ports.get(name) != chosen:
        ports[name] = chosen
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(ports, indent=1))
        draft.replace(path)
    return chosen


def _free_port_not_in(ports: dict[str, int]) -> int:
    # A stored port can be bound while its server is down, but it is reserved.
    while (port := free_port()) in ports.values():
        continue
    return port


def _any_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ephemeral_low() -> int:
    try:
        return int(_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _HIGHEST + 1  # not Linux; on macOS the range starts at 49152
