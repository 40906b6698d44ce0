"""The network edge: what unsigned clients can do, limits on heads, proxies, and the public port (A6, A7)."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr

from schemas.settings import Endpoint
from tests.kits.gatewaykit import FORGED, SECRET, Served, config, create_topics, event, get, post, send, serving, signed

pytestmark = pytest.mark.e2e

STRIPE = "3.18.12.63"


@pytest.fixture(scope="module")
def gateway(kafka_bootstrap: str) -> Iterator[Served]:
    prefix = f"edge{time.monotonic_ns() % 100_000}"
    create_topics(kafka_bootstrap, prefix)
    fenced = Endpoint(secrets=(SecretStr(SECRET.decode()),), allow_ips=(f"{STRIPE}/32", "2001:db8::/32"))
    used = config(fenced=fenced).model_copy(update={"trusted_proxies": ("127.0.0.0/8", "10.0.0.0/8")})
    with serving(kafka_bootstrap, f"{prefix}.events", used) as served:
        yield served


def test_a_body_without_a_usable_header_is_not_read(gateway: Served) -> None:
    """The answer arrives while the 1 MiB body has not been sent."""
    for header in (None, "nonsense", signed(b"x", at=1)):
        head = "POST /webhooks/stripe HTTP/1.1\r\nHost: g\r\nContent-Length: 1048576\r\n"
        head += f"Stripe-Signature: {header}\r\n\r\n" if header else "\r\n"
        assert send(gateway.port, head.encode(), timeout=30).status == 400


def test_signed_posts_get_in_while_large_bodies_wait(gateway: Served) -> None:
    """160 connections hold large unfinished bodies with a forged header; events of ordinary size are stored."""
    open_ones: list[socket.socket] = []
    try:
        for number in range(160):
            sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
            open_ones.append(sock)
            head = f"POST /webhooks/stripe HTTP/1.1\r\nHost: g\r\nX-Forwarded-For: 198.51.100.{number % 200}\r\n"
            head += f"Content-Length: 1048576\r\nStripe-Signature: {signed(b'other', FORGED)}\r\n\r\n"
            sock.settimeout(2)
            try:
                sock.sendall(head.encode() + b"x" * 1_000_000)
            except OSError:
                continue  # refused meanwhile
        body = event(pad=6000)
        assert [post(gateway.port, body, signed(body)).status for _ in range(50)] == [200] * 50
    finally:
        for sock in open_ones:
            sock.close()


def test_tiny_chunks_are_given_up(gateway: Served) -> None:
    """Senders of 1-byte chunks do not delay signed posts; an ordinary chunked body is accepted."""
    body = event(pad=200_000)
    parts = [body[at : at + 1000] for at in range(0, len(body), 1000)]
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    head = (
        f"POST /webhooks/stripe HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\nStripe-Signature: {signed(body)}"
    )
    assert send(gateway.port, head.encode() + b"\r\n\r\n" + chunked).status == 200

    stopping = threading.Event()
    tiny = head.encode() + b"\r\n\r\n" + b"1\r\nx\r\n" * 50_000

    def flood() -> None:
        while not stopping.wait(0.2):
            with (
                contextlib.suppress(OSError),  # the gateway closes the connection
                socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock,
            ):
                sock.sendall(tiny[: 6 * 6_000])

    assert send(gateway.port, tiny).status == 400
    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(flood)
        try:
            small = event()
            seconds = sorted(post(gateway.port, small, signed(small)).seconds for _ in range(20))
        finally:
            stopping.set()  # else the pool waits for the senders without end
    assert seconds[10] < 2.0, "half of them are answered at once"


def test_heads_have_room_for_what_proxies_add_and_a_bound(gateway: Served) -> None:
    body = event()
    many = tuple(b"X-Proxy-%d: v" % number for number in range(85))
    assert post(gateway.port, body, signed(body), extra=(*many, b"X-Long: " + b"v" * 15_000)).status == 200
    for extra in (
        tuple(b"X-Proxy-%d: v" % number for number in range(120)),
        (b"X-Long: " + b"v" * 17_000,),
        tuple(b"X-Long-%d: " % number + b"v" * 15_000 for number in range(6)),
    ):
        assert post(gateway.port, body, signed(body), extra=extra).status == 400
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as sock:
        sock.sendall(b"GET /livez HTTP/2.0\r\nHost: g\r\n\r\n")
        assert b" 400 " in sock.recv(100)


def test_no_answer_names_a_version(gateway: Served) -> None:
    body = event()
    answers = [
        post(gateway.port, body, signed(body)),
        post(gateway.port, body),
        get(gateway.port, "/nothing"),
        get(gateway.port, "/webhooks/stripe"),
        get(gateway.port, "/livez"),
        send(gateway.port, b"broken\r\n\r\n"),
        post(gateway.port, body, signed(body), extra=(b"Expect: nonsense",)),
        *(get(gateway.ops_port, path) for path in ("/livez", "/readyz", "/metrics", "/nothing")),
        send(gateway.ops_port, b"broken\r\n\r\n"),
    ]
    assert {answer.headers["Server"] for answer in answers} == {"billing"}
    assert [answer.status for answer in answers] == [200, 400, 404, 405, 200, 400, 417, 200, 200, 200, 404, 400]


@pytest.mark.parametrize(
    "sent",
    [
        b"QUOTED <me> HTTP/1.1\r\n\r\n",
        b"GET /" + b"QUOTED" * 4_000 + b" HTTP/1.1\r\n\r\n",
        b"GET http://[QUOTED/ HTTP/1.1\r\nHost: g\r\n\r\n",
        b"POST /webhooks/stripe HTTP/1.1\r\nQUOTED me: v\r\n\r\n",
        b"POST /webhooks/stripe HTTP/1.1\r\nHost: g\r\nContent-Length: QUOTED\r\n\r\n",
        b"POST /webhooks/stripe HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: QUOTED\r\n\r\n",
        b"POST /webhooks/stripe HTTP/1.1\r\nHost: g\r\nExpect: QUOTED\r\nContent-Length: 0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: g\r\nExpect: QUOTED\r\n\r\n",
        b"GET /QUOTED HTTP/1.1\r\nHost: g\r\nAccept: text/html\r\nExpect: QUOTED\r\n\r\n",
        b"GET /QUOTED HTTP/1.1\r\nHost: g\r\nAccept: text/html\r\n\r\n",
    ],
)
def test_no_answer_and_no_log_line_quotes_a_malformed_request(
    gateway: Served, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The answers are short and no HTML, on the public port and on that of operations."""
    for port in (gateway.port, gateway.ops_port):
        answer = send(port, sent)
        assert 400 <= answer.status < 500
        assert "html" not in answer.headers["Content-Type"]
        assert len(answer.body) < 60
        assert b"QUOTED" not in answer.body
    assert "QUOTED" not in caplog.text


def test_a_sender_that_closes_its_half_early_loses_nothing(gateway: Served) -> None:
    """It may get no answer, which Stripe counts as a failure and tries again."""
    body = event()
    head = f"POST /webhooks/stripe HTTP/1.1\r\nHost: g\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as sock:
        sock.sendall(f"{head}Stripe-Signature: {signed(body)}\r\n\r\n".encode() + body)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100)[:15] in (b"", b"HTTP/1.1 200 OK")
    assert post(gateway.port, body, signed(body)).status == 200


def test_the_public_port_has_no_pages_for_operators(gateway: Served) -> None:
    assert [get(gateway.port, path).status for path in ("/metrics", "/readyz", "/livez")] == [404, 404, 200]
    assert [get(gateway.ops_port, path).status for path in ("/metrics", "/readyz", "/livez")] == [200, 200, 200]
    assert get(gateway.ops_port, "/webhooks/stripe").status == 404


@pytest.mark.parametrize(
    ("forwarded", "status"),
    [
        ((STRIPE,), 200),
        ((f"{STRIPE}, 10.1.2.3",), 200),
        ((f"203.0.113.9, {STRIPE}",), 200),
        (("203.0.113.9", STRIPE), 200),
        ((f"{STRIPE}:4711",), 200),
        (("[2001:db8::7]:443",), 200),
        (("2001:db8::7",), 200),
        ((f"{STRIPE}, 203.0.113.9",), 403),
        (("garbage",), 403),
        ((f"{STRIPE}, garbage",), 403),
        ((), 403),
    ],
)
def test_the_allow_list_works_behind_proxies(gateway: Served, forwarded: tuple[str, ...], status: int) -> None:
    """The client is the last address that is not a trusted proxy's."""
    body = event()
    extra = tuple(f"X-Forwarded-For: {value}".encode() for value in forwarded)
    assert post(gateway.port, body, signed(body), path="/webhooks/stripe/fenced", extra=extra).status == status


def test_refusals_are_counted_and_few_are_logged(gateway: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal with a valid signature has a line of its own."""
    capsys.readouterr()
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    before = gateway.metrics.registry.get_sample_value(
        "billing_gateway_requests_total", {"endpoint": "default", "outcome": "signature_mismatch"}
    )
    for _ in range(1000):
        connection.request("POST", "/webhooks/stripe", b"{}", {"Stripe-Signature": signed(b"{}", FORGED)})
        connection.getresponse().read()
    connection.close()
    wrong_mode = event(livemode=True)
    for _ in range(20):
        assert post(gateway.port, wrong_mode, signed(wrong_mode)).status == 400
    after = gateway.metrics.registry.get_sample_value(
        "billing_gateway_requests_total", {"endpoint": "default", "outcome": "signature_mismatch"}
    )
    assert (after or 0) - (before or 0) == 1000
    text = "".join(capsys.readouterr())  # where lines go depends on what configured the log in this process before
    # Five lines and a summary for each interval that the requests fell into.
    assert text.count("signature_mismatch") < 50
    assert text.count("mode_mismatch") == 20
