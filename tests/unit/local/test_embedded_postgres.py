"""The time that the embedded PostgreSQL has to start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local.stack.postgres import EmbeddedPostgres
from local.stack.process import ServerNotReady


class Server:
    """Replaces the server's process; `dies` is how often it finds the shared memory in use."""

    def __init__(self, dies: int) -> None:
        self.dies = dies
        self.timeouts: list[float] = []

    def spawn(self) -> None: ...

    def tail(self) -> str:
        return "pre-existing shared memory block is still in use"

    def wait_until(self, _: Callable[[], bool], *, timeout: float) -> None:
        self.timeouts.append(timeout)
        if len(self.timeouts) <= self.dies:
            raise ServerNotReady("ended")


def test_the_server_has_its_whole_time_however_long_its_preparation_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash, preparing repeats the write-ahead log, which may take minutes."""
    now, server = 1_000.0, Server(dies=2)

    def prepare(_: EmbeddedPostgres) -> Any:
        nonlocal now
        now += 290.0
        return server

    monkeypatch.setattr(EmbeddedPostgres, "_prepare", prepare)
    monkeypatch.setattr("local.stack.postgres.time.monotonic", lambda: now)
    monkeypatch.setattr("local.stack.postgres.time.sleep", lambda _: None)
    EmbeddedPostgres(tmp_path).start()
    assert server.timeouts == [60.0] * 3
