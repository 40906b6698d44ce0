"""Secrets that a person made up are recognised, and random ones are not (trust T30)."""

from __future__ import annotations

import math
import random
import string
from collections import Counter

import pytest

from schemas.guessable import has_words, is_made_up, is_regular, is_step, most_steps


@pytest.mark.parametrize(
    ("alphabet", "length"),
    [
        (string.ascii_letters + string.digits, 32),
        (string.hexdigits[:16], 32),
        (string.hexdigits[:16], 64),
        (string.ascii_letters + string.digits + "-_", 43),
        (string.ascii_letters + string.digits + "+/", 44),
        (f"{string.ascii_uppercase}234567", 32),
        (f"{string.ascii_uppercase}234567", 52),
        (string.ascii_lowercase + string.digits, 32),
    ],
)
def test_T30_a_random_secret_passes(alphabet: str, length: int) -> None:
    chance = random.Random(30)
    for _ in range(500):
        secret = "".join(chance.choices(alphabet, k=length))
        assert not is_made_up(secret), secret


@pytest.mark.parametrize("text", ["correct-horse-battery-staple-now", "CORRECT_HORSE_BATTERY_STAPLE_4711", "a.b-" * 9])
def test_T30_words_with_separators_are_recognised(text: str) -> None:
    assert is_made_up(text)


def test_T30_a_label_does_not_weaken_a_random_secret() -> None:
    random_part = "9f86d081884c7d659a2feaa0c55ad015"
    assert not is_made_up(f"prod-mail-token-{random_part}")
    assert is_made_up(f"prod-mail-token-{random_part[:31]}")
    assert is_made_up(f"token-{'0123' * 8}")


def test_T30_random_bytes_have_no_pattern() -> None:
    chance = random.Random(30)
    for _ in range(500):
        key = chance.randbytes(24).decode("latin-1")
        assert not is_regular(key), key


@pytest.mark.parametrize(
    ("alphabet", "length"),
    [
        *((string.digits, 32), (string.hexdigits[:16], 32), (string.hexdigits[:16], 64), (string.ascii_letters, 32)),
        *((f"{string.ascii_letters}{string.digits}", 32), (f"{string.ascii_lowercase}{string.digits}", 32)),
        (f"{string.ascii_letters}{string.digits}-_", 43),
    ],
)
def test_T30_a_random_secret_has_too_many_steps_less_than_once_in_100_000(alphabet: str, length: int) -> None:
    """By calculation: chances of that kind are not seen in samples that a test has time for."""
    weights = Counter(alphabet.lower())
    # The chance of each number of steps so far, by the latest character.
    chances = {one: [times / len(alphabet)] + [0.0] * length for one, times in weights.items()}
    steps = {one: [other for other in weights if is_step(other, one)] for one in weights}
    for _ in range(length - 1):
        total = [sum(column) for column in zip(*chances.values(), strict=True)]
        following = {}
        for one, times in weights.items():
            by_step = [sum(column) for column in zip(*(chances[other] for other in steps[one]), strict=True)]
            others = [every - some for every, some in zip(total, by_step, strict=True)]
            following[one] = [
                (other + stepped) * times / len(alphabet)
                for other, stepped in zip(others, [0.0, *by_step[:-1]], strict=True)
            ]
        chances = following
    most = math.floor(most_steps(length, len(alphabet)))
    assert sum(sum(of_one[most + 1 :]) for of_one in chances.values()) < 1e-5


@pytest.mark.parametrize("word", ["replace", "example", "secret", "token", "passw", "here", "-your", "xxxxxx", "..."])
def test_T30_a_placeholder_is_recognised(word: str) -> None:
    assert is_made_up(f"9f8a7c6d5e4b3a2f1e0d9c8b7a{word}")


@pytest.mark.parametrize(
    "text",
    [
        *("abc123def456ghi789jkl012mno345pq", "1234qwer5678asdf90zxcv12tyui34gh"),
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
