"""Secrets that a person made up are recognised, and random ones are not (trust T30)."""

from __future__ import annotations

import random
import string

import pytest

from schemas.guessable import has_words, is_regular


@pytest.mark.parametrize(
    ("alphabet", "length"),
    [
        (string.ascii_letters + string.digits, 32),
        (string.hexdigits[:16], 32),
        (string.hexdigits[:16], 64),
        (string.ascii_letters + string.digits + "-_", 43),
        ("".join(map(chr, range(256))), 24),
    ],
)
def test_T30_a_random_secret_passes(alphabet: str, length: int) -> None:
    chance = random.Random(30)
    for _ in range(2_000):
        secret = "".join(chance.choices(alphabet, k=length))
        assert not is_regular(secret), secret
        assert not has_words(secret), secret


@pytest.mark.parametrize(
    "text",
    [
        *("a" * 32, "ab" * 16, "a1B2c3D4" * 4, "geheim-geheim-geheim-geheim-test", "Xy7" * 10 + "-staging"),
        *("abcdefghijklmnopqrstuvwxyz012345", "98765432109876543210987654321098", "qwertzuiopasdfghjklyxcvbnm"),
        *("".join(map(chr, range(32))), "aabbccddeeffgghhiijjkkllmmnnoopp"),
    ],
)
def test_T30_a_pattern_is_recognised(text: str) -> None:
    assert is_regular(text)


@pytest.mark.parametrize(
    "text",
    ["bitte_hier_das_geheimnis", "votre-secret-de-signature", "CLAVE_SECRETA_DE_PRUEBA", "x9.wachtwoord_van_de_winkel"],
)
def test_T30_words_of_any_language_are_recognised(text: str) -> None:
    assert has_words(text)
