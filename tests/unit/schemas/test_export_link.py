"""The links in mails: they cannot be forged, and each expires at its own time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.export_link import LinkVerdict, check_export_link, export_url

SECRET = b"a deployment's own"
END = datetime(2026, 12, 1, 12, 0, 0, tzinfo=UTC)
BEFORE = END - timedelta(seconds=1)
ID = "exp_0123456789abcdef"


def parts(url: str) -> tuple[str, str, str]:
    """(id, expires, signature)"""
    split = urlsplit(url)
    query = parse_qs(split.query, strict_parsing=True)
    return split.path.rpartition("/")[2], query["expires"][0], query["signature"][0]


def test_a_link_is_valid_until_it_expires() -> None:
    url = export_url("https://billing.example.com", SECRET, ID, END)
    assert url.startswith(f"https://billing.example.com/exports/{ID}?expires=")
    assert check_export_link([SECRET], *parts(url), BEFORE) is LinkVerdict.VALID
    assert check_export_link([SECRET], *parts(url), END) is LinkVerdict.EXPIRED


def test_a_forged_link_is_forged_even_after_its_expiry() -> None:
    id_, expires, _ = parts(export_url("https://x.example", SECRET, ID, END))
    late = END + timedelta(days=1)
    assert check_export_link([SECRET], id_, expires, "A" * 43, late) is LinkVerdict.FORGED


@given(secret=st.binary(min_size=1, max_size=40).filter(lambda secret: secret != SECRET))
def test_a_link_with_another_secret_is_forged(secret: bytes) -> None:
    assert check_export_link([secret], *parts(export_url("https://x.example", SECRET, ID, END)), BEFORE) is (
        LinkVerdict.FORGED
    )


@given(id_=st.text(), expires=st.text(), signature=st.text())
def test_any_other_parameters_are_forged(id_: str, expires: str, signature: str) -> None:
    assert check_export_link([SECRET], id_, expires, signature, BEFORE) is LinkVerdict.FORGED


@given(data=st.data())
def test_a_link_with_a_changed_part_is_forged(data: st.DataObject) -> None:
    genuine = parts(export_url("https://x.example", SECRET, ID, END))
    at = data.draw(st.integers(0, 2), label="part")
    changed = list(genuine)
    edit = data.draw(st.sampled_from(["set", "drop", "add"]), label="edit")
    text = genuine[at]
    place = data.draw(st.integers(0, len(text) - 1), label="place")
    char = data.draw(st.characters(), label="character")
    changed[at] = {
        "set": text[:place] + char + text[place + 1 :],
        "drop": text[:place] + text[place + 1 :],
        "add": text[:place] + char + text[place:],
    }[edit]
    is_same = changed == list(genuine)
    verdict = check_export_link([SECRET], changed[0], changed[1], changed[2], BEFORE)
    assert verdict is (LinkVerdict.VALID if is_same else LinkVerdict.FORGED)


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_digits_cannot_move_between_id_and_expiry(shift: int) -> None:
    id_, expires, signature = parts(export_url("https://x.example", SECRET, ID, END))
    moved = (id_ + expires[:shift], expires[shift:], signature)
    assert check_export_link([SECRET], *moved, BEFORE) is LinkVerdict.FORGED
