"""What `billing up` takes from the caller's environment (G49)."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.system import System

CLI_SECRET = "whsec_0a1b2c3d4e5f60718293a4b5c6d7e8f9"


def system(folder: Path, **given: str) -> System:
    made = System(folder, 1, print, given={f"BILLING_{name}": value for name, value in given.items()})
    (folder / "postgres").mkdir(exist_ok=True)
    (folder / "postgres" / "owner_password").write_text("of a server that is not started")
    made.env = made._environment("whsec_of_the_config")
    return made


def test_a_given_mail_server_is_kept(tmp_path: Path) -> None:
    made = system(tmp_path, SMTP_URL="smtp://127.0.0.1:1025")
    assert made.has_foreign_mail_server
    assert made.env["BILLING_SMTP_URL"] == "smtp://127.0.0.1:1025"
    of_file = system(tmp_path, SMTP_URL_FILE="/run/secrets/smtp")
    assert (of_file.env["BILLING_SMTP_URL"], of_file.env["BILLING_SMTP_URL_FILE"]) == ("", "/run/secrets/smtp")


def test_the_mailbox_of_up_is_no_foreign_server(tmp_path: Path) -> None:
    """A shell that has read STATE_DIR/env starts the system again."""
    made = system(tmp_path, SMTP_URL="smtp://127.0.0.1:4025", MAILBOX_DIR=str(tmp_path / "mail"))
    assert not made.has_foreign_mail_server
    assert made.env["BILLING_SMTP_URL"].startswith("smtp://127.0.0.1:")
    assert made.env["BILLING_SMTP_URL"] != "smtp://127.0.0.1:4025"
    assert not system(tmp_path).has_foreign_mail_server


@pytest.mark.parametrize("name", ["WEBHOOK_SECRET", "WEBHOOK_SECRET_FILE"])
def test_the_gateway_takes_the_secret_of_stripe_listen_and_no_other_process_does(tmp_path: Path, name: str) -> None:
    made = system(tmp_path, **{name: CLI_SECRET})
    assert made._gateway().env[f"BILLING_{name}"] == CLI_SECRET
    assert made.env["BILLING_WEBHOOK_SECRET"] == "whsec_of_the_config"  # what the shell signs with
    assert CLI_SECRET not in made._dispatcher().env.values()
