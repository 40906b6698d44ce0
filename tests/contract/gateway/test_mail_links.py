"""The links in the mails: taken from real mails and opened at a real gateway (B6, RFC 8058)."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.app import create_app, create_runner
from gateway.endpoints import webhook_endpoints
from gateway.mail_links import Links
from gateway.metrics import GatewayMetrics
from gateway.publisher import Publisher
from schemas.kafka_access import KafkaAccess
from sinks.email.message import Composer, QueuedMail
from sinks.email.samples import SAMPLES
from sinks.email.unsubscribe import Unsubscriptions
from sinks.exports.exporter import Exporter
from sinks.exports.orders import ExportOrders
from sinks.exports.reader import ExportReader
from sinks.exports.storage import Storage
from sinks.payloads.archive import PayloadArchive
from tests.faulty_mailbox import FaultyMailbox
from tests.kits.gatewaykit import config, create_topics
from tests.kits.mailkit import CONFIG, MailOutboxKit, open_kit

SECRET = b"a secret of this test"
ID = "exp_00112233445566778899aabbccddeeff"


@dataclass
class MailLinkKit:
    """A gateway on loopback, and a client that opens links."""

    url: str
    desk: MailOutboxKit
    session: aiohttp.ClientSession
    orders: ExportOrders
    exporter: Exporter
    folder: Path
    links: Links

    async def order(self, key: str = ID) -> None:
        """Insert an export order, as the worker's transaction does."""
        now = self.desk.clock.now
        await self.desk.connection.execute(
            "INSERT INTO billing.exports (export_key, event_id, customer_id, organization_id, requested_at, "
            "next_attempt_at, expires_at) VALUES ($1, 'evt_1', 'cus_1', 'org_1', $2, $2, $3)",
            key,
            now,
            now + timedelta(days=30),
        )

    def letter(self, template: str, data: dict[str, Any]) -> EmailMessage:
        composer = Composer(CONFIG, link_secret=SECRET, public_url=self.url)
        return composer.compose(_queued(template, data, self.desk.clock.now), self.desk.clock.now).message

    def export_link(self, key: str = ID) -> str:
        data = {**SAMPLES["subscription-canceled"], "export_url": None, "export_id": key}
        return _link_in(self.letter("subscription-canceled", data), f"{self.url}/exports/")

    async def get(self, link: str) -> tuple[int, bytes, dict[str, str]]:
        async with self.session.get(link) as answer:
            return answer.status, await answer.read(), dict(answer.headers)

    async def status(self, link: str) -> int:
        return (await self.get(link))[0]


def _queued(template: str, data: dict[str, Any], now: datetime) -> QueuedMail:
    return QueuedMail(
        key=f"{template}:sub_1",
        event_id="evt_1",
        account="",
        customer_id="cus_1",
        template=template,
        recipient="jane@example.com",
        locale=None,
        livemode=False,
        data=data,
        attempts=1,
        now=now,
    )


def _link_in(message: EmailMessage, start: str) -> str:
    body = message.get_body(("plain",))
    assert body is not None
    (link,) = set(re.findall(rf"{re.escape(start)}\S+", body.get_content()))
    return str(link)


@pytest.fixture
async def kit(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[MailLinkKit]:
    topic = create_topics(kafka_bootstrap, topic_prefix, partitions=1).events_topic
    folder = tmp_path / "exports"
    storage = Storage(str(folder))
    async with open_kit(database) as desk, aiohttp.ClientSession() as session:
        orders = await ExportOrders.connect(
            database, claimer="test", application="billing-test", ahead=desk.clock.ahead
        )
        links = Links([SECRET], ExportReader(orders, storage), Unsubscriptions(orders.pool, [SECRET]), clock=desk.clock)
        metrics = GatewayMetrics()
        app = create_app(
            webhook_endpoints(config()), Publisher(KafkaAccess(kafka_bootstrap), topic, metrics), metrics, links=links
        )
        runner = create_runner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        exporter = Exporter(orders, storage, PayloadArchive(""), clock=desk.clock)
        yield MailLinkKit(f"http://127.0.0.1:{port}", desk, session, orders, exporter, folder, links)
        await runner.cleanup()
    await orders.close()


async def test_B6_the_link_in_the_mail_opens_the_export_once_it_is_made(kit: MailLinkKit) -> None:
    await kit.desk.connection.execute(
        "INSERT INTO billing.customers (account, customer_id, email) VALUES ('', 'cus_1', 'jane@example.com')"
    )
    await kit.order()
    link = kit.export_link()

    status, page, headers = await kit.get(link)
    assert (status, headers["Retry-After"]) == (202, "15")
    assert b"being prepared" in page

    assert await kit.exporter.turn(0)
    status, body, headers = await kit.get(link)
    assert status == 200
    assert headers["Content-Disposition"] == 'attachment; filename="export-2026-11-23.zip"'
    assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert b"jane@example.com" in archive.read("json/customers.json")
    sha256 = await kit.desk.connection.fetchval("SELECT sha256 FROM billing.exports")
    assert hashlib.sha256(body).hexdigest() == sha256


async def test_B6_a_link_expires_after_seven_days_and_a_new_mail_has_a_new_one(kit: MailLinkKit) -> None:
    await kit.order()
    await kit.exporter.turn(0)
    link = kit.export_link()
    kit.desk.clock.move(days=7, seconds=-1)
    assert await kit.status(link) == 200
    kit.desk.clock.move(seconds=1)
    assert await kit.status(link) == 410
    assert await kit.status(kit.export_link()) == 200


async def test_T44_links_of_the_old_secret_work_until_it_is_removed(kit: MailLinkKit) -> None:
    await kit.order()
    await kit.exporter.turn(0)
    new = b"another-secret-of-thirty-two-bytes-0123"
    export = kit.export_link()
    unsubscribe = str(kit.letter("win-back", dict(SAMPLES["win-back"]))["List-Unsubscribe"])[1:].partition(">")[0]

    kit.links.secrets = [new, SECRET]
    kit.links.unsubscriptions = Unsubscriptions(kit.orders.pool, [new, SECRET])
    assert (await kit.status(export), await kit.status(unsubscribe)) == (200, 200)
    kit.links.secrets = [new]
    kit.links.unsubscriptions = Unsubscriptions(kit.orders.pool, [new])
    assert (await kit.status(export), await kit.status(unsubscribe)) == (403, 403)


async def test_T44_a_revoked_export_is_gone_at_once(kit: MailLinkKit) -> None:
    await kit.order()
    assert await kit.orders.revoke([ID]) == []  # it has no archive yet
    await kit.exporter.turn(0)
    link = kit.export_link()
    assert await kit.status(link) == 200
    assert await kit.orders.revoke([ID, "unknown"]) == [ID]
    kit.desk.clock.move(seconds=2)
    assert await kit.status(link) == 410
    await kit.exporter.turn(0)
    assert list(kit.folder.iterdir()) == []


async def test_B6_deleted_failed_and_unknown_exports_have_their_own_answers(kit: MailLinkKit) -> None:
    await kit.order()
    await kit.exporter.turn(0)
    kit.desk.clock.move(days=30)
    assert await kit.status(kit.export_link()) == 410, "the link has expired although the file still exists"
    await kit.exporter.turn(0)
    assert list(kit.folder.iterdir()) == []
    assert await kit.status(kit.export_link()) == 410
    await kit.desk.connection.execute("UPDATE billing.exports SET status = 'failed'")
    assert await kit.status(kit.export_link()) == 503
    assert await kit.status(kit.export_link("exp_none")) == 404


async def test_B6_an_incomplete_archive_is_never_served_as_complete(kit: MailLinkKit) -> None:
    await kit.order()
    await kit.exporter.turn(0)
    (path,) = kit.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(aiohttp.ClientError):
        await kit.get(kit.export_link())
    path.unlink()
    assert await kit.status(kit.export_link()) == 503


async def test_B6_too_many_downloads_at_once_are_answered_with_retry_later(kit: MailLinkKit) -> None:
    await kit.order()
    await kit.exporter.turn(0)
    link = kit.export_link()
    while not kit.links.downloads.locked():
        await kit.links.downloads.acquire()
    assert await kit.status(link) == 503
    kit.links.downloads.release()
    assert await kit.status(link) == 200


@pytest.mark.parametrize(
    "path",
    [
        "/exports/",
        f"/exports/{ID}",
        f"/exports/{ID}?expires=9999999999&signature=",
        f"/exports/{ID}?expires=9999999999&expires=1&signature=x",
        "/exports/..%2f..%2fetc%2fpasswd?expires=9999999999&signature=x",
        "/exports/../../etc/passwd",
        "/exports",
    ],
)
async def test_B6_nothing_is_opened_or_listed_without_a_signature(kit: MailLinkKit, path: str) -> None:
    await kit.order()
    await kit.exporter.turn(0)
    assert await kit.status(f"{kit.url}{path}") in (403, 404)


async def test_B6_a_changed_link_is_refused(kit: MailLinkKit) -> None:
    await kit.order()
    await kit.exporter.turn(0)
    link = kit.export_link()
    id_end = link.index("?")

    for at in [*range(link.index("/exports/") + 9, id_end), *range(link.index("expires=") + 8, len(link))]:
        if link[at] in "=&" or link.startswith(("signature", "&signature="), at):
            continue
        changed = link[:at] + ("0" if link[at] != "0" else "1") + link[at + 1 :]
        assert await kit.status(changed) in (403, 404), f"{at}: {changed}"


@given(token=st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=200))
def test_a_forged_token_unsubscribes_no_customer(token: str) -> None:
    """Neither the page nor the button unsubscribes; the database is not queried."""
    unsubscriptions = Unsubscriptions(None, [SECRET])  # type: ignore[arg-type]  # a forged token must not get to the pool
    assert not unsubscriptions.is_genuine(token)


async def test_one_click_ends_the_optional_mails_and_only_those(kit: MailLinkKit, mailbox: FaultyMailbox) -> None:
    """RFC 8058: a POST to the header's address unsubscribes. A GET, as mail scanners send, changes nothing."""
    message = kit.letter("win-back", dict(SAMPLES["win-back"]))
    link = str(message["List-Unsubscribe"]).partition(">")[0].removeprefix("<")
    assert urlsplit(link).path == "/unsubscribe"
    status, page, _ = await kit.get(link)
    assert status == 200
    assert b'<form method="post"' in page
    assert await kit.desk.connection.fetchval("SELECT count(*) FROM billing.unsubscribed") == 0

    for _ in range(2):
        async with kit.session.post(link, data={"List-Unsubscribe": "One-Click"}) as answer:
            assert answer.status == 200
    async with kit.session.post(link[:-1] + ("A" if link[-1] != "A" else "B")) as answer:
        assert answer.status == 403
    rows = await kit.desk.connection.fetch("SELECT account, customer_id, template FROM billing.unsubscribed")
    assert [tuple(row) for row in rows] == [("", "cus_1", "win-back")]

    await kit.desk.queue("a", "win-back", customer_id="cus_1")
    await kit.desk.queue("b", "payment-receipt", customer_id="cus_1")
    await kit.desk.queue("c", "win-back", customer_id="cus_2")
    async with kit.desk.dispatcher(mailbox):
        refused = await kit.desk.until("a", status="withheld")
        await kit.desk.until("b", status="sent")
        await kit.desk.until("c", status="sent")
    assert "unsubscribed" in refused["last_error"]
    assert {str(message["To"]) for message in mailbox.messages} == {"b@example.com", "c@example.com"}


async def test_a_database_that_is_down_stops_the_links_and_not_the_webhooks(kit: MailLinkKit) -> None:
    link = kit.export_link()
    nowhere = await ExportOrders.connect(
        SecretStr("postgresql://unused:x@127.0.0.1:1/none"), claimer="test", application="billing-test"
    )
    kit.links.exports = ExportReader(nowhere, Storage(str(kit.folder)))
    status, _, headers = await kit.get(link)
    assert (status, headers["Retry-After"]) == (503, "60")
    assert await kit.status(f"{kit.url}/livez") == 200
    await nowhere.close()


async def test_without_a_secret_the_mail_has_no_link(kit: MailLinkKit) -> None:
    data = {**SAMPLES["subscription-canceled"], "export_url": None, "export_id": ID}
    now = kit.desk.clock.now
    body = Composer(CONFIG).compose(_queued("subscription-canceled", data, now), now).message.get_body(("plain",))
    assert body is not None
    assert "/exports/" not in body.get_content()
