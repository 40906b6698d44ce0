"""Every template says whether its mails can become untrue."""

from __future__ import annotations

from schemas.mail import FACT_MAILS, MAILS
from sinks.email.checks import CHECKS


def test_every_template_has_a_check_or_states_a_fact() -> None:
    """A new template without either would be sent although it has become untrue."""
    assert set(CHECKS) | FACT_MAILS == set(MAILS)
    assert not set(CHECKS) & FACT_MAILS
