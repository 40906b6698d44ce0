"""Stored texts may contain control sequences; no output and no log line passes them to a terminal."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ops.runtime.printable import error_line, printable, printable_lines, to_json
from tests.paths import ROOT

EVIL = "cs\x1b]0;pwned\x07 \x9b31m \u202egnp.exe \x7f \u2028 \U000e0041 end"


def _is_clean(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("sign", [*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), "\u202e", "\u2066", "\u061c"])
def test_no_control_character_is_printed(sign: str) -> None:
    assert printable(f"a{sign}b") == "a\N{REPLACEMENT CHARACTER}b"
    text = to_json({"a": f"a{sign}b"})
    assert text.isprintable()
    assert json.loads(text) == {"a": f"a{sign}b"}, "JSON keeps the text"


def test_letters_of_all_scripts_stay() -> None:
    name = "Zoë Müller 株式会社 Ελλάδα 🚀 क्षत्रिय"
    assert printable(name) == name
    assert to_json([name]) == f'["{name}"]'


def test_json_keeps_every_digit_and_level_of_a_payload() -> None:
    """A number beyond 64 bits, and a value more than 254 levels deep, which orjson refuses."""
    deep: object = []
    for _ in range(400):
        deep = [deep]
    at = datetime(2026, 3, 1, tzinfo=UTC)
    for value in (10**23, -(2**63) - 1, deep):
        text = to_json({"at": at, "path": Path("a"), "value": value, "evil": EVIL})
        assert _is_clean(text)
        assert json.loads(text) == {"at": "2026-03-01T00:00:00+00:00", "path": "a", "value": value, "evil": EVIL}


def test_a_text_keeps_only_its_line_breaks() -> None:
    assert printable_lines(f"one\n\ttwo{EVIL}").startswith("one\n        two")
    assert _is_clean(printable_lines(EVIL))


def test_an_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    error_line("event", ValueError(f"no\nevent {EVIL}"))
    assert stderr.getvalue().startswith("billing event: no event cs")
    assert stderr.getvalue().count("\n") == 1
    assert _is_clean(stderr.getvalue())


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_log_lines_are_clean_in_both_formats(log_format: str) -> None:
    """Also lines of libraries, and the messages of errors in tracebacks."""
    code = (
        "import logging, structlog\n"
        "from ops.runtime.logs import configure_logging\n"
        f"evil = {EVIL!r}\n"
        f"configure_logging(log_format={log_format!r})\n"
        "log = structlog.get_logger()\n"
        "log.info('x', text=evil, nested={'a': [evil]})\n"
        "logging.getLogger('lib').warning('%s', evil)\n"
        "try:\n    raise ValueError(evil)\n"
        "except ValueError:\n    log.exception('failed')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pwned" in done.stderr
    assert _is_clean(done.stderr)
    if log_format == "json":
        assert json.loads(done.stderr.splitlines()[0])["text"] == EVIL
