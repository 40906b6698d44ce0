"""Beside the flow: loopback ports for the embedded servers, chosen once per state directory and kept."""

from __future__ import annotations

import json
import random
import socket
import threading
from pathlib import Path

_LOWEST = 15_000
_HIGHEST = 32_000
_TRIES = 200
_CHOOSING = threading.Lock()
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class NoFreePort(Exception):
    """No loopback port could be bound."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody holds now.

    It lies below the kernel's ephemeral range. A port inside that range can be handed to any outgoing connection while
    a killed server is down, and a client that keeps retrying can even connect to itself on it.
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
        # As servers do: a port whose old connections linger in TIME_WAIT can be listened on.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def kept_port(state_dir: Path, name: str, port: int | None = None) -> int:
    """The port of `name` in this state directory: `port` if given, else the one kept from before, else a free one."""
    with _CHOOSING:
        return _kept_port(state_dir / "ports.json", name, port)


def _kept_port(path: Path, name: str, port: int | None) -> int:
    ports: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    chosen = port or ports.get(name) or _free_beside(ports)
    if ports.get(name) != chosen:
        ports[name] = chosen
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(ports, indent=1))
        draft.replace(path)
    return chosen


def _free_beside(ports: dict[str, int]) -> int:
    # A port kept for a server that is down now is free to bind, and yet taken.
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
        return _HIGHEST + 1  # not Linux: macOS begins at 49152
