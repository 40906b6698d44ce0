"""The plan of dunning as a team writes it: read from TOML, and refused at start where it cannot be carried out."""

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


def test_without_a_word_it_is_the_seeds(tmp_path: Path) -> None:
    """behaviours.md C3: each of the four mails is a step of it."""
    assert _load(tmp_path, "") == DEFAULT_DUNNING
    assert {step.template for step in DEFAULT_DUNNING} == DUNNING_MAILS


def test_another_plan_replaces_it(tmp_path: Path) -> None:
    """Days, attempts and mails, as they are written."""
    text = _step('template = "payment-urgent"\nattempts = [1, 2]') + _step('template = "payment-final"\nafter_days = 9')
    assert _load(tmp_path, text) == (
        DunningStep(template="payment-urgent", attempts=(1, 2)),
        DunningStep(template="payment-final", after_days=9),
    )
    assert _load(tmp_path, "[rules]\ndunning = []") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_step('template = "payment-remimder"\nafter_days = 3'), "payment-remimder is no dunning mail"),
        (_step('template = "win-back"\nafter_days = 3'), "win-back is no dunning mail"),
        (_step('template = "payment-failed"'), "needs one of"),
        (_step('template = "payment-failed"\nattempts = [1]\nafter_days = 3'), "needs one of"),
        (_step('template = "payment-failed"\nattempts = [0]'), "greater than or equal to 1"),
        (_step('template = "payment-failed"\nafter_days = -3'), "greater than or equal to 1"),
        (_step('template = "payment-failed"\nattempts = [1]') + _step('template = "payment-failed"\nafter_days = 3'),
         "one template"),
        (_step('template = "payment-failed"\nattempts = [1]') + _step('template = "payment-urgent"\nattempts = [1]'),
         "one attempt"),
        (_step('template = "payment-failed"\nfinal = true') + _step('template = "payment-urgent"\nfinal = true'),
         "are final"),
    ],
)  # fmt: skip
def test_a_plan_that_could_not_be_carried_out_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """At the start, in one line: not by a mail that cannot be made, days later."""
    with pytest.raises(InvalidSettings, match=said) as raised:
        _load(tmp_path, text)
    assert "\n" not in str(raised.value)
