"""The signature check: bodies signed by Stripe are accepted, and no header from an unknown sender raises."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.signature import MAX_HEADER_CHARS, TOLERANCE_S, SignatureVerdict, check_header, sign, verify
from tests.paths import RECORDED_EVENTS

SECRET = b"whsec_one"
BODY = b'{"id":"evt_1"}'
NOW = 1_700_000_000

VECTOR = RECORDED_EVENTS / "vectors" / "event_test_signature.json"


def header(body: bytes = BODY, secret: bytes = SECRET, at: int = NOW) -> str:
    return sign(body, [secret], timestamp=at)


def digest(body: bytes = BODY, secret: bytes = SECRET, at: int = NOW) -> str:
    return hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()


@pytest.mark.skipif(not VECTOR.exists(), reason="the shared sample events are not next to this checkout")
def test_known_answer() -> None:
    """A signature computed by another implementation is valid."""
    known = (
        "t=1533204620,v1=2220f87ef101a04665f11cdf770523143f875572008577fa0f20882ddb9cc3c7,"
        "v0=63f3a72374a733066c4be69ed7f8e5ac85c22c9f0a6a612ab9a025a9e4ee7eef"
    )
    body = VECTOR.read_bytes()
    assert verify(body, known, [b"webhook_secret"], now=1533204620) is SignatureVerdict.VALID
    assert verify(body, known, [b"webhook_secre"], now=1533204620) is SignatureVerdict.MISMATCH
    assert verify(body.rstrip(), known, [b"webhook_secret"], now=1533204620) is SignatureVerdict.MISMATCH


def test_the_scheme_is_that_of_stripe() -> None:
    """The header is `t=…,v1=HMAC(secret, "t.body")`; the test computes it itself."""
    assert header() == f"t={NOW},v1={digest()}"
    assert verify(BODY, f"t={NOW},v1={digest()}", [SECRET], now=NOW) is SignatureVerdict.VALID


@pytest.mark.parametrize("offset", [-TOLERANCE_S, -1, 0, 1, TOLERANCE_S])
def test_a_clock_difference_within_the_tolerance_is_accepted(offset: int) -> None:
    """A difference of 300 s in both directions is accepted."""
    assert verify(BODY, header(at=NOW + offset), [SECRET], now=NOW) is SignatureVerdict.VALID


@pytest.mark.parametrize("offset", [-TOLERANCE_S - 1, TOLERANCE_S + 1, -NOW, 10**11])
def test_beyond_the_tolerance_is_refused_in_both_directions(offset: int) -> None:
    """An old replayed body and one from the future are both refused, although the signature is valid."""
    assert verify(BODY, header(at=NOW + offset), [SECRET], now=NOW) is SignatureVerdict.OUTSIDE_TOLERANCE


def test_the_header_is_checked_before_the_body() -> None:
    """What it alone shows to be refused is refused without reading a body."""
    assert check_header(None, now=NOW) is SignatureVerdict.MISSING
    assert check_header("t=1", now=NOW) is SignatureVerdict.MALFORMED
    assert check_header(header(secret=b"other", at=1), now=NOW) is SignatureVerdict.OUTSIDE_TOLERANCE
    assert isinstance(check_header(header(secret=b"other"), now=NOW), tuple)


def test_any_secret_may_match_any_v1() -> None:
    """During a secret rotation Stripe signs with both secrets, and the configuration may have either or both."""
    both = sign(BODY, [b"old", b"new"], timestamp=NOW)
    assert both.count("v1=") == 2
    for known in ([b"old"], [b"new"], [b"other", b"new"], [b"new", b"old"]):
        assert verify(BODY, both, known, now=NOW) is SignatureVerdict.VALID
    assert verify(BODY, both, [b"other"], now=NOW) is SignatureVerdict.MISMATCH
    assert verify(BODY, both, [], now=NOW) is SignatureVerdict.MISMATCH


def test_v0_never_counts() -> None:
    """v0 is Stripe's fake scheme for test events. A correct digest under v0 is not accepted."""
    assert verify(BODY, f"t={NOW},v0={digest()}", [SECRET], now=NOW) is SignatureVerdict.MALFORMED
    assert verify(BODY, f"t={NOW},v0={digest()},v1={'0' * 64}", [SECRET], now=NOW) is SignatureVerdict.MISMATCH
    assert verify(BODY, f"t={NOW},v0=junk,v1={digest()},v2=x", [SECRET], now=NOW) is SignatureVerdict.VALID


@pytest.mark.parametrize("changed", [BODY + b" ", BODY[:-1], b"", BODY.replace(b"1", b"2")])
def test_a_changed_body_is_refused(changed: bytes) -> None:
    """Every byte is signed, trailing ones included."""
    assert verify(changed, header(), [SECRET], now=NOW) is SignatureVerdict.MISMATCH


@pytest.mark.parametrize("absent", [None, ""])
def test_no_header(absent: str | None) -> None:
    """A missing header has its own verdict."""
    assert verify(BODY, absent, [SECRET], now=NOW) is SignatureVerdict.MISSING


@pytest.mark.parametrize(
    "junk",
    [
        "x",
        ",",
        "=",
        "t=,v1=",
        f"v1={digest()}",
        f"t={NOW}",
        f"t={NOW},v1={digest()},",
        f"t={NOW},t={NOW},v1={digest()}",
        f"t={NOW},v1={digest()},t={NOW + 1}",
        f"t=-1,v1={digest()}",
        f"t=+{NOW},v1={digest()}",
        f"t= {NOW},v1={digest()}",
        f"t={NOW}.0,v1={digest()}",
        f"t=1e9,v1={digest()}",
        f"t={'9' * 5000},v1={digest()}",
        f"t={'9' * 3000},v1={digest()}",
        f"t=１７００００００００,v1={digest()}",  # noqa: RUF001 - full-width digits, which int() would take
        f"t=1_700_000_000,v1={digest()}",
        "\udcff\x00",
        "t" * (MAX_HEADER_CHARS + 1),
        f"t={NOW}," + f"v1={'0' * 64}," * 70 + f"v1={digest()}",
    ],
)
def test_malformed_headers_return_a_verdict(junk: str) -> None:
    """Anyone on the internet can send such headers."""
    assert verify(BODY, junk, [SECRET], now=NOW) is SignatureVerdict.MALFORMED


@pytest.mark.parametrize(
    "candidate",
    ["", "é" * 64, "\udcff" * 64, digest().upper(), digest()[:-1], digest() + "0", f" {digest()}", "g" * 64],
)
def test_non_ascii_digests_do_not_match(candidate: str) -> None:
    """`hmac.compare_digest` raises TypeError for text that is not ASCII, so it must be rejected before."""
    assert verify(BODY, f"t={NOW},v1={candidate}", [SECRET], now=NOW) is SignatureVerdict.MISMATCH
    assert verify(BODY, f"t={NOW},v1={candidate},v1={digest()}", [SECRET], now=NOW) is SignatureVerdict.VALID


def test_a_binary_body_can_be_signed() -> None:
    """The check uses the bytes. A later step checks whether they are JSON."""
    body = b"\xff\xfe\x00\x80"
    assert verify(body, header(body), [SECRET], now=NOW) is SignatureVerdict.VALID


def test_reasons_leak_nothing() -> None:
    """No verdict names a secret, a digest or the expected time."""
    for verdict in SignatureVerdict:
        assert not any(text in verdict.value for text in ("whsec", str(NOW), digest()[:8], str(TOLERANCE_S)))


_PART = st.one_of(
    st.text(max_size=80),
    st.builds("t={}".format, st.one_of(st.integers(), st.text(max_size=30))),
    st.builds("v1={}".format, st.one_of(st.text(max_size=70), st.text("0123456789abcdef", min_size=64, max_size=64))),
)


@given(body=st.binary(max_size=200), header=st.lists(_PART, max_size=8).map(",".join), now=st.integers(0, 2**40))
def test_nothing_unsigned_is_valid_and_nothing_raises(body: bytes, header: str, now: int) -> None:
    """For any header created without the secret, the verdict is not VALID."""
    assert verify(body, header, [SECRET], now=now) is not SignatureVerdict.VALID


@given(body=st.binary(max_size=500), secret=st.binary(min_size=1, max_size=80), skew=st.integers(-300, 300))
def test_signed_requests_are_valid(body: bytes, secret: bytes, skew: int) -> None:
    """Signing and verifying agree for any bytes and any secret."""
    assert verify(body, sign(body, [secret], timestamp=NOW + skew), [secret], now=NOW) is SignatureVerdict.VALID
