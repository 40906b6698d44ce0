"""The frame that raised the error of a dead letter."""

from __future__ import annotations

import traceback

import pytest

from schemas.dead_letter import top_frame_of


def _of(*paths: str) -> str:
    frames = "".join(f'  File "{path}", line {at}, in work\n    it()\n' for at, path in enumerate(paths, 1))
    return f"Traceback (most recent call last):\n{frames}ValueError: no\n"


def _fail() -> None:
    raise ValueError("no")


@pytest.mark.parametrize(
    ("paths", "frame"),
    [
        (("/srv/app/streams/apply.py", "/srv/app/streams/rules/invoices.py"), "streams/rules/invoices.py:2 in work"),
        (("/srv/app/streams/apply.py", "/usr/lib/python3.11/decimal.py"), "app/streams/apply.py:1 in work"),
        (
            ("/v/lib/python3.11/site-packages/streams/apply.py", "/v/lib/python3.11/site-packages/pydantic/main.py"),
            "site-packages/streams/apply.py:1 in work",
        ),
        (
            ("/usr/lib/python3/dist-packages/streams/apply.py", "/usr/lib64/python3.13t/decimal.py"),
            "dist-packages/streams/apply.py:1 in work",
        ),
        (("/srv/app/streams/apply.py", "<string>"), "app/streams/apply.py:1 in work"),
        (("/v/lib/python3.11/site-packages/pydantic/main.py",), "site-packages/pydantic/main.py:1 in work"),
        ((), ""),
    ],
    ids=[
        "a rule",
        "the standard library",
        "installed from a wheel",
        "installed by a distribution",
        "code in no file",
        "a library alone",
        "no frame",
    ],
)
def test_the_innermost_frame_of_our_own_code_is_named(paths: tuple[str, ...], frame: str) -> None:
    assert top_frame_of(_of(*paths)) == frame


def test_the_text_of_a_real_error_has_a_frame() -> None:
    with pytest.raises(ValueError, match="no") as raised:
        _fail()
    text = "".join(traceback.format_exception(raised.value))
    assert top_frame_of(text).startswith("unit/schemas/test_top_frame.py:")
    assert top_frame_of(text).endswith(" in _fail")
