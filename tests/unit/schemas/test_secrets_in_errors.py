"""A setting that cannot be used is one line without its value, wherever the secret was put."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.settings import InvalidSettings, load_config, load_settings, secret_variables

MARK = "S3CRETvalue"
VALUES = (
    MARK, f"sk_live_{MARK}", f"whsec_{MARK}", f" {MARK} ", MARK * 200, f'["{MARK}"]', f"http://{MARK}@host",
    f"postgresql://u:{MARK}@h:port/db", f"postgresql://u:{MARK}@[::1/db", f"postgresql://u:{MARK}@@h/db",
    f"postgresql://u:{MARK}%zz@h/db", f"postgresql://h/db?password={MARK}", f"mysql://u:{MARK}@h/db",
    f"postgresql://u:x@h,h2:5432/db?target_session_attrs={MARK}", f"smtp://u:{MARK}@h:port", f"smtps://u:{MARK}@h/?x=1",
    f"sasl.password={MARK}", f"sasl.password: {MARK}",
)  # fmt: skip
BESIDES = ("BILLING_KAFKA_CONFIG", "BILLING_WEBHOOK_SECRET", "BILLING_FEED_SECRET_APP")


@pytest.mark.parametrize("name", sorted({*secret_variables(), *BESIDES}))
def test_no_error_shows_a_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setenv("BILLING_KAFKA_BOOTSTRAP", "127.0.0.1:9092")
    monkeypatch.setenv("BILLING_DATABASE_URL", "postgresql://u@127.0.0.1/b")
    monkeypatch.setenv("BILLING_CONFIG", str(tmp_path / "config.toml"))
    shown = []
    for value in VALUES:
        monkeypatch.setenv(name, value)
        try:
            settings = load_settings()
            shown.append(repr(settings) if name != "BILLING_KAFKA_CONFIG" else "")  # is not a secret
        except InvalidSettings as error:
            shown.append(str(error))
    assert [text for text in shown if MARK in text or "\n" in text] == []


@pytest.mark.parametrize(
    "text",
    [
        f'[endpoints.default]\nsecrets = "whsec_{MARK}"',
        f'[endpoints.default]\nsecrets = [["whsec_{MARK}"]]',
        f'[endpoints]\ndefault = "whsec_{MARK}"',
        f'[endpoints.default]\nsecrets = ["whsec_{MARK}"]\nsecrets = ["whsec_{MARK}"]',
        f'[endpoints.default]\nsecrets = ["whsec_{MARK}"\n',
        f'[endpoints."whsec_{MARK}"]\nx = 1',
        f'whsec_{MARK} = "x"',
        f'"sk_live_{MARK}" = "x"',
        f'[console.users.jane]\npassword = "{MARK}"\nrole = "admin"',
        f'[feed.destinations.app]\nurl = "https://u:{MARK}@host/"\nsecrets = ["whsec_{MARK}"]',
        f'mode = "{MARK}"',
        "a = " + "[" * 5000 + "]" * 5000,
    ],
)
def test_no_error_shows_a_secret_of_the_config(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InvalidSettings) as raised:
        load_config(path)
    assert MARK not in str(raised.value)
    assert "\n" not in str(raised.value)
