"""Links, languages and numbers of the config that cannot be right are refused with one line (G31, G34, G35)."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.settings import Config, InvalidSettings, load_config
from streams.rules.mails import stripe_link

_LINKS = dict.fromkeys(("app_url", "update_payment_url", "survey_url", "return_url"), "https://app.example.com/x")


def _written(tmp_path: Path, mode: str, links: dict[str, str]) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(f'mode = "{mode}"\n[mail]\n' + "".join(f'{name} = "{url}"\n' for name, url in links.items()))
    return path


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/x", "http://localhost/x", "https://[::1]/x", None])
@pytest.mark.parametrize("name", sorted(_LINKS))
def test_a_live_system_has_no_link_to_its_own_machine(tmp_path: Path, name: str, url: str | None) -> None:
    """The default is such a link. A test system may have it."""
    links = {key: value for key, value in (_LINKS | {name: url}).items() if value is not None}
    load_config(_written(tmp_path, "test", links))
    with pytest.raises(InvalidSettings, match=rf"mail\.{name}: customers cannot open links") as caught:
        load_config(_written(tmp_path, "live", links))
    assert "\n" not in str(caught.value)
    load_config(_written(tmp_path, "live", _LINKS))


@pytest.mark.parametrize(
    ("table", "line", "key"),
    [
        ("rules", "erase_after_days = 0", "rules.erase_after_days"),
        ("rules", "erase_after_days = -5", "rules.erase_after_days"),
        ("rules", "win_back_after_days = -1", "rules.win_back_after_days"),
        ("rules", "trial_reminder_days = -3", "rules.trial_reminder_days"),
        ("rules", "waiting_limit_hours = -1", "rules.waiting_limit_hours"),
        ("mail", 'app_url = "javascript:alert(1)"', "mail.app_url"),
        ("mail", 'survey_url = "ftp://example.com"', "mail.survey_url"),
        ("mail", 'off = ["payment-receipt", "recipt"]', "no such mail: recipt;"),
        ("mail", 'default_locale = "nl"', "the languages are de, en, es, fr, pt"),
    ],
)
def test_an_impossible_value_is_refused(tmp_path: Path, table: str, line: str, key: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"[{table}]\n{line}\n")
    with pytest.raises(InvalidSettings) as caught:
        load_config(path)
    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("url", "is_kept"),
    [
        ("https://invoice.stripe.com/i/acct_1/x", True),
        ("https://pay.example.com/x", True),
        ("http://invoice.stripe.com/x", False),
        ("https://evil.example", False),
        ("https://invoice.stripe.com.evil.example/x", False),
        ("https://invoice.stripe.com@evil.example/x", False),
        (None, False),
    ],
)
def test_only_links_to_pages_of_stripe_reach_a_mail(url: str | None, is_kept: bool) -> None:
    """T45."""
    config = Config.model_validate({"mail": {"stripe_hosts": ["pay.example.com"]}})
    assert stripe_link(config, url) == (url if is_kept else None)
