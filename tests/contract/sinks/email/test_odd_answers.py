"""D8: what a mail server says is stored, whatever its bytes are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from pydantic import SecretStr

from sinks.email.message import QueuedMail
from sinks.outbox import outages
from sinks.outbox.refusals import answer_of
from tests.kits.mailkit import MailOutboxKit, open_kit


@pytest.fixture
async def desk(database: SecretStr) -> AsyncIterator[MailOutboxKit]:
    async with open_kit(database) as opened:
        yield opened


@pytest.mark.parametrize("answer", ["554 no\0", "no SMTP: \0\x1b[2J\x9b", "half \ud800 a character"])
async def test_D8_any_answer_of_the_server_is_stored(desk: MailOutboxKit, answer: str) -> None:
    """Postgres refuses U+0000 and half characters: the dispatcher would end, and again after each start."""
    await desk.queue("a")
    async with desk.outbox() as outbox:

        async def claimed() -> QueuedMail:
            desk.clock.move(seconds=1)
            await outbox.has_due()
            (mail,) = await outbox.claim(1)
            return mail

        async def stored() -> str:
            error: str = (await desk.row("a"))["last_error"]
            assert error.isprintable()
            assert answer_of(error) == answer_of(answer), "the next try recognises the answer"
            return error

        assert await outbox.give_back(await claimed(), timedelta(0), answer)
        await stored()
        assert await outbox.retry(await claimed(), timedelta(0), answer)
        await stored()
        assert await outbox.fail(await claimed(), answer)
        async with outbox.connection() as connection:
            await outages.note(connection, "emails", "me", "mail.example.com:25", answer)
        (outage,) = await outbox.outages()
        assert outage.reason == await stored()
