"""`python -m tests.services`: only a known word starts or stops a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import services


@pytest.mark.parametrize(
    ("words", "status"),
    [([], 2), (["--start"], 2), (["start", "kafka"], 2), (["restart"], 2), (["--help"], 0), (["-h"], 0)],
)
def test_another_word_prints_the_usage_and_starts_nothing(
    words: list[str],
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BILLING_TEST_SERVICES", str(tmp_path / "services"))
    assert services.main(words) == status
    assert capsys.readouterr().err.startswith("usage: python -m tests.services start|stop")
    assert not (tmp_path / "services").exists()
