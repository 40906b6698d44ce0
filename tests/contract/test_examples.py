"""The receivers of docs/examples, started as a reader starts them: they verify signatures and drop repeats."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from local.stack.ports import free_port
from sinks.feed.answers import Answer
from tests.kits.feedkit import OTHER_SECRET, SECRET, poster, queued
from tests.paths import ROOT
from tests.waiting import eventually

EXAMPLES = ROOT / "docs" / "examples"
NODE = shutil.which("node")
RECEIVERS = [
    pytest.param(sys.executable, "feed_receiver.py", id="python"),
    pytest.param(
        NODE or "node",
        "feed_receiver.mjs",
        id="node",
        marks=pytest.mark.skipif(NODE is None, reason="Node is not installed"),
    ),
]


@asynccontextmanager
async def started(program: str, name: str, folder: Path) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Yields the receiver's URL and process."""
    port = free_port()
    environment = os.environ | {"FEED_SECRET": SECRET, "FEED_DATABASE": str(folder / "feed.sqlite")}
    process = await asyncio.create_subprocess_exec(
        program, str(EXAMPLES / name), str(port), env=environment, stdout=asyncio.subprocess.PIPE
    )

    async def is_open() -> bool:
        assert process.returncode is None, "the receiver has ended"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    try:
        await eventually(is_open, within_s=60)
        yield f"http://127.0.0.1:{port}/hook", process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize(("program", "name"), RECEIVERS)
async def test_F3_the_example_receivers_verify_and_drop_repeats(program: str, name: str, tmp_path: Path) -> None:
    async with started(program, name, tmp_path) as (url, process):
        assert process.stdout is not None
        signed, forged = poster(url), poster(url, OTHER_SECRET)
        rotated = poster(url, OTHER_SECRET, SECRET)
        row = queued(data={"has_access": True, "plan": "pro", "user_id": None})
        try:
            answers = [await one.post(row) for one in (forged, signed, signed, rotated)]
        finally:
            for one in (signed, forged, rotated):
                await one.close()
        lines = [(await process.stdout.readline()).decode().split() for _ in range(3)]
    assert answers == [Answer(401), Answer(204), Answer(204), Answer(204)]
    assert lines == [[word, "access.changed", "cus_1", "7"] for word in ("new", "repeat", "repeat")]
