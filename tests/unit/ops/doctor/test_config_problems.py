"""`billing config check` finds every mistake at once, with its key and remedy, and shows no value."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.doctor.config_problems import problems_of_environment, problems_of_file, valid_settings
from tests.paths import ROOT

SECRET = "whsec_" + "Q7b2mZx9LkPq4TnR8sVw1Yc6Df3Gh5Jj"
OTHER = "whsec_placeholder"
WRONG = f"""
mod = "live"

[endpoints.default]
secrets = ["{SECRET}"]
[endpoints.second]
secrets = ["{OTHER}"]
[endpoints.third]
alow_ips = []

[plans.pro]
name = 7
prices = ["price_1"]

[access]
past_due_grace_days = -1

[mail]
sender = "not an address"
default_locale = "xx"
colour = "red"

[rules]
trial_reminder_days = "many"

[feed.destinations.app]
url = "https://app.example.com/hook"
types = ["access.chnged"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "billing.toml"


def test_every_mistake_is_found_at_once(file: Path) -> None:
    file.write_text(WRONG)
    found = {one.key: one for one in problems_of_file(file)}
    assert found.keys() >= {
        "mod", "endpoints.second", "endpoints.third.alow_ips", "plans.pro.name", "access.past_due_grace_days",
        "mail.colour", "rules.trial_reminder_days",
    }  # fmt: skip
    assert any(key.startswith("feed.destinations.app.types") for key in found)
    assert any(key.startswith("mail") and key != "mail.colour" for key in found)
    assert found["mod"].remedy == "did you mean mode?"
    assert found["endpoints.third.alow_ips"].remedy == "did you mean allow_ips?"
    assert all(one.file == str(file) and one.text and one.remedy for one in found.values())
    shown = "".join(map(str, found.values()))
    assert SECRET not in shown
    assert OTHER not in shown


@pytest.mark.parametrize(
    ("text", "key", "part"),
    [
        ('mode = "live', "", "not TOML"),
        ("", "endpoints", "none is configured"),
        ('plugins = ["absent"]', "plugins", "no package offers it"),
        ('trusted_proxies = ["10.0.0.0/64"]', "trusted_proxies", "10.0.0.0/64"),
        ('mode = "live"\n[mail]\napp_url = "http://127.0.0.1:1"', "", "live"),
        ('[endpoints.default]\nmode = "live"', "", "top of the file"),
    ],
)
def test_a_mistake_has_its_key(file: Path, text: str, key: str, part: str) -> None:
    file.write_text(text)
    assert [one for one in problems_of_file(file) if one.key == key and part in one.text]


def test_the_example_has_no_problem_once_its_secret_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems_of_file(ROOT / "config.example.toml")
    assert problem.key == "endpoints.default"
    assert "BILLING_WEBHOOK_SECRET" in problem.text
    monkeypatch.setenv("BILLING_WEBHOOK_SECRET", SECRET)
    assert problems_of_file(ROOT / "config.example.toml") == []


def test_the_environment_is_checked_completely(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {
        "BILLING_OPS_PORT": "many", "BILLING_KAFKA_BOOTSTRAP": "127.0.0.1:9092", "BILLING_STRIPE_KEY": "sk_live_hidden",
        "BILLING_LINK_SECRET": "short", "BILLING_SMTP_URL_FILE": str(tmp_path / "none"),
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("BILLING_DATABASE_URL", raising=False)
    found = {one.key: one for one in problems_of_environment()}
    assert found["BILLING_STRIPE_KEY"].is_warning
    assert {name for name, one in found.items() if not one.is_warning} >= {
        "BILLING_OPS_PORT", "BILLING_LINK_SECRET", "BILLING_SMTP_URL", "BILLING_DATABASE_URL", "BILLING_CONFIG",
    }  # fmt: skip
    assert not [value for value in ("sk_live_hidden", "short") if value in "".join(map(str, found.values()))]


GOOD = f"""
[endpoints.default]
secrets = ["{SECRET}"]
[plans.pro]
name = "Pro"
prices = ["price_1"]
[mail]
sender = "Acme <billing@acme.test>"
"""
LINKS = "".join(
    f'{name} = "https://acme.test"\n' for name in ("app_url", "update_payment_url", "survey_url", "return_url")
)


@pytest.mark.parametrize(
    ("wrong", "key", "said"),
    [
        ("[plans.free]\nname = 7", "plans.free.name", 1),  # a wrong required key is not missing, too
        ("[plans.free]\nprices = []", "plans.free.name", 1),
        ("[[rules.dunning]]\nattempts = [1]", "rules.dunning", 1),
        ('[plans.other]\nname = "Other"\nprices = ["price_1"]', "", 1),  # a rule over several tables
    ],
)
def test_a_part_that_is_wrong_is_reported_once_and_the_rest_is_checked(
    file: Path, wrong: str, key: str, said: int
) -> None:
    file.write_text(f"{GOOD.replace('Acme <billing@acme.test>', 'not an address')}\n{wrong}")
    found = [one.key for one in problems_of_file(file)]
    assert len([one for one in found if one.startswith(key) and one != "mail"]) == said, found
    assert "mail" in found
    assert len(found) == said + 1, found


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("SMTP_URL", "http://mail.example.com", "BILLING_SMTP_URL"),
        ("SMTP_URL", "smtp://mail.example.com", "BILLING_SMTP_URL"),  # unencrypted
        ("STRIPE_API_KEY", "hidden", "BILLING_STRIPE_API_KEY"),
        ("STRIPE_API_KEY", "sk_test_hidden", "BILLING_STRIPE_API_KEY"),  # of the other mode
        ("STRIPE_API_BASE", "http://stripe.example.com", "BILLING_STRIPE_API_BASE"),
        ("PUBLIC_URL", "http://localhost:8080", "BILLING_PUBLIC_URL"),
        ("EXPORTS_URL", "nothing://hidden", "BILLING_EXPORTS_URL"),
        ("CONSOLE_HOST", "0.0.0.0", "BILLING_CONSOLE_HOST"),
        ("CONSOLE_TOKEN", "hidden", "BILLING_CONSOLE_TOKEN"),
        ("LINK_SECRET", "", "mail.customer_portal"),
        ("PORTAL_API_KEY", "", "BILLING_PORTAL_API_KEY"),
        ("PORTAL_API_KEY", "rk_test_hidden", "BILLING_PORTAL_API_KEY"),
    ],
)
def test_what_a_process_refuses_when_it_starts_is_found(
    file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, key: str
) -> None:
    portal = "customer_portal = true" if "portal" in key.lower() else ""
    file.write_text(f'mode = "live"\n{GOOD}{portal}\n{LINKS}')
    given = {
        "KAFKA_BOOTSTRAP": "127.0.0.1:9092", "DATABASE_URL": "postgresql://b@127.0.0.1/b", "CONFIG": str(file),
        "LINK_SECRET": "Q7b2mZx9LkPq4TnR8sVw1Yc6Df3Gh5Jj", "PORTAL_API_KEY": "rk_live_1",
    }  # fmt: skip
    for name, text in given.items():
        monkeypatch.setenv(f"BILLING_{name}", text)
    assert problems_of_file(file, valid_settings()) == []
    monkeypatch.setenv(f"BILLING_{variable}", value)
    assert valid_settings() is not None
    (problem,) = problems_of_file(file, valid_settings())
    assert problem.key == key
    assert problem.file == ("environment" if key.startswith("BILLING_") else str(file))
    assert problem.text
    assert "hidden" not in str(problem)
