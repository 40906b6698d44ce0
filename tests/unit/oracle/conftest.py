"""The tests of mistakes change how events are read, and other tests read the same events."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kits.rulekit import forget_events


@pytest.fixture(autouse=True)
def read_anew() -> Iterator[None]:
    forget_events()
    yield
    forget_events()
