"""F4: `billing mail preview --serve`, opened over HTTP as a browser does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from schemas.settings import Mail
from sinks.email.preview import serve_previews
from sinks.email.samples import SAMPLES


async def test_F4_the_preview_shows_each_mail_and_reads_a_changed_wording_again(tmp_path: Path) -> None:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    serving = asyncio.create_task(
        serve_previews(lambda: Mail(templates=tmp_path, product="Acme"), 0, ready.set_result, stop)
    )
    async with aiohttp.ClientSession() as session:
        url = await asyncio.wait_for(ready, 30)

        async def read(path: str, **headers: str) -> tuple[int, str]:
            async with session.get(url + path, headers=headers) as answer:
                return answer.status, await answer.text()

        status, page = await read("")
        assert status == 200
        assert all(f'href="/{name}/' in page for name in SAMPLES)
        assert all(f"/{language}" in page for language in ("de", "en", "es", "fr", "pt"))
        status, page = await read("win-back/fr/html")
        assert (status, "Votre abonnement Team" in page) == (200, True)

        (tmp_path / "fr").mkdir()
        wording = tmp_path / "fr" / "win-back.j2"
        wording.write_text("{% extends layout %}{% block subject %}Revenez{% endblock %}")
        assert "Revenez" in (await read("win-back/fr"))[1]
        wording.write_text("{% extends layout %}{% block subject %}{{ nom }}{% endblock %}")
        status, page = await read("win-back/fr")
        assert (status, "&#x27;nom&#x27; is undefined" in page) == (500, True)
        assert (await read("no-such-mail/fr"))[0] == 404
        assert (await read("win-back/fr", Host="evil.example"))[0] == 403
    stop.set()
    await asyncio.wait_for(serving, 30)
