from __future__ import annotations

import secrets

import pytest

from schemas.link_secrets import link_secrets


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x", "less than 32 bytes"),
        ("0123456789abcdef0123456789abcde", "less than 32 bytes"),
        ("c81f0d4b6e2a9735f4d07b8c1e5a3926,short", "less than 32 bytes"),
        ("replace_me_with_a_secret_of_thirty_two_bytes", "placeholder"),
        ("your-link-secret-0123456789-abcdefghijkl", "placeholder"),
        ("a" * 64, "placeholder"),
        ("0123456789abcdef" * 4, "pattern"),
        ("geheimnis1-geheimnis2-geheimnis3-ok", "pattern"),
        ("qwertyuiopasdfghjklzxcvbnm1234567890", "pattern"),
        (",", "no secret"),
    ],
)
def test_T30_a_link_secret_that_can_be_guessed_is_refused_without_being_shown(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        link_secrets(text)
    assert len(text) < 8 or text not in str(caught.value)


def test_T44_the_first_of_several_signs_and_blanks_around_them_do_not_count() -> None:
    new, old = secrets.token_hex(32), secrets.token_urlsafe(32)
    assert link_secrets(f"{new}, {old}") == (new.encode(), old.encode())
