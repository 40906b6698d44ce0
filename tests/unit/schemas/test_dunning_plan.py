"""The dunning plan in TOML: it is read at start, and refused if it is impossible."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.mail import DUNNING_MAILS
from schemas.settings import DEFAULT_DUNNING, DunningStep, InvalidSettings, load_config


def _step(line: str) -> str:
    return f"[[rules.dunning]]\n{line}\n"


def _load(tmp_path: Path, text: str) -> tuple[DunningStep, ...]:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load_config(path).rules.dunning


def test_the_default_plan_is_the_documented_one(tmp_path: Path) -> None:
    """behaviours.md C3: the default plan has one step for each of the four mails."""
    assert _load(tmp_path, "") == DEFAULT_DUNNING
    assert {step.template for step in DEFAULT_DUNNING} == DUNNING_MAILS


def test_another_plan_replaces_it(tmp_path: Path) -> None:
    """Days, attempts and mails are taken from the file."""
    text = _step('template = "payment-urgent"\nattempts = [1, 2]') + _step('template = "payment-final"\nafter_days = 9')
    assert _load(tmp_path, text) == (
        DunningStep(template="payment-urgent", attempts=(1, 2)),
        DunningStep(template="payment-final", after_days=9),
    )
    assert _load(tmp_path, "[rules]\ndunning = []") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_step('template = "payment-remimder"\nafter_days = 3'), "payment-remimder is not a dunning mail"),
        (_step('template = "win-back"\nafter_days = 3'), "win-back is not a dunning mail"),
        (_step('template = "payment-failed"'), "needs exactly one of"),
        (_step('template = "payment-failed"\nattempts = [1]\nafter_days = 3'), "needs exactly one of"),
        (_step('template = "payment-failed"\nattempts = [0]'), "greater than or equal to 1"),
        (_step('template = "payment-failed"\nafter_days = -3'), "greater than or equal to 1"),
        (_step('template = "payment-failed"\nattempts = [1]') + _step('template = "payment-failed"\nafter_days = 3'),
         "the same template or"),
        (_step('template = "payment-failed"\nattempts = [1]') + _step('template = "payment-urgent"\nattempts = [1]'),
         "or the same attempt"),
        (_step('template = "payment-failed"\nfinal = true') + _step('template = "payment-urgent"\nfinal = true'),
         "are final"),
    ],
)  # fmt: skip
def test_an_impossible_plan_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """The process refuses it at start with one line, not days later with a mail that cannot be created."""
    with pytest.raises(InvalidSettings, match=message) as raised:
        _load(tmp_path, text)
    assert "\n" not in str(raised.value)
