"""Guesses of passwords are limited, however many come at once, and lock out no one else."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from console import tries as tries_module
from console.oidc import OidcSignIn, SignInAttempt
from console.oidc_errors import ProviderUnavailable, TooManySignIns
from console.tries import (
    HASHES_AT_ONCE,
    MOST_OF_A_PEER,
    MOST_WAITING,
    MOST_WRONG,
    MOST_WRONG_OF_A_PEER,
    LinesOfPeers,
    Recent,
    Shares,
    TooManyTries,
    Tries,
    peer_of,
)
from schemas.console_settings import ConsoleOidc, Role
from tests.waiting import eventually


class Hashes:
    """Work under a reservation that takes as long as the test wants."""

    def __init__(self, tries: Tries) -> None:
        self.tries = tries
        self.go_on, self.begun = asyncio.Event(), asyncio.Event()
        self.now = self.most = self.done = 0

    async def one(self, peer: str, name: str) -> bool:
        try:
            async with self.tries.reserved(peer, name):
                self.now += 1
                self.begun.set()
                self.most = max(self.most, self.now)
                await self.go_on.wait()
                self.now -= 1
                self.done += 1
                return True
        except TooManyTries:
            return False


async def refused(tasks: list[asyncio.Task[bool]], count: int) -> None:
    """Waits until this many tries have ended; no hash has."""

    async def have_ended() -> bool:
        return sum(task.done() for task in tasks) == count

    await eventually(have_ended, f"{count} refused tries")


async def test_a_thousand_tries_at_once_are_a_few_hashes() -> None:
    hashes = Hashes(Tries())
    tasks = [asyncio.create_task(hashes.one("10.0.0.1", f"name{at}")) for at in range(1000)]
    await refused(tasks, 1000 - MOST_OF_A_PEER)
    hashes.go_on.set()
    assert sum(await asyncio.gather(*tasks)) == hashes.done == MOST_OF_A_PEER
    assert hashes.most <= HASHES_AT_ONCE


async def test_the_queue_has_a_length_for_all_peers_together() -> None:
    hashes = Hashes(Tries())
    tasks = [asyncio.create_task(hashes.one(f"10.0.{at}.1", "ada")) for at in range(200)]
    await refused(tasks, 200 - MOST_WAITING)
    hashes.go_on.set()
    assert sum(await asyncio.gather(*tasks)) == MOST_WAITING


async def test_wrong_tries_lock_out_one_name_from_one_address_for_a_minute() -> None:
    now = [0.0]
    tries = Tries(lambda: now[0])
    hashes = Hashes(tries)
    hashes.go_on.set()
    assert all([await hashes.one("10.0.0.1", "ada") for _ in range(MOST_WRONG)])
    assert not await hashes.one("10.0.0.1", "ada")
    assert await hashes.one("10.0.0.2", "ada"), "Ada herself"
    assert await hashes.one("10.0.0.1", "grace")
    now[0] += 61
    assert await hashes.one("10.0.0.1", "ada")


async def test_a_right_password_does_not_count() -> None:
    tries = Tries()
    for _ in range(3 * MOST_WRONG):
        async with tries.reserved("10.0.0.1", "ada"):
            pass
        tries.forget("10.0.0.1", "ada")


async def test_a_cancelled_try_leaves_the_queue_and_counts() -> None:
    tries = Tries()
    hashes = Hashes(tries)
    for _ in range(MOST_WRONG):
        task = asyncio.create_task(hashes.one("10.0.0.1", "ada"))
        await hashes.begun.wait()
        hashes.begun.clear()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    with pytest.raises(TooManyTries):
        async with tries.reserved("10.0.0.1", "ada"):
            pass
    async with tries.reserved("10.0.0.1", "grace"):
        pass


async def test_names_do_not_give_a_peer_more_tries() -> None:
    now = [0.0]
    hashes = Hashes(Tries(lambda: now[0]))
    hashes.go_on.set()
    assert sum([await hashes.one("10.0.0.1", f"name{at}") for at in range(200)]) == MOST_WRONG_OF_A_PEER
    assert await hashes.one("10.0.0.2", "ada")
    now[0] += 61
    assert await hashes.one("10.0.0.1", "ada")


async def test_tries_from_many_peers_lock_out_no_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest are forgotten."""
    monkeypatch.setattr(tries_module, "MOST_KEPT", 5)
    hashes = Hashes(Tries(lambda: 0.0))
    hashes.go_on.set()
    assert all([await hashes.one(f"10.0.0.{at}", "ada") for at in range(50)])


def test_what_expired_is_dropped_with_the_next_try() -> None:
    recent = Recent[str]()
    for at in range(100):
        recent.add(f"name{at}", float(at) / 100)
    recent.add("name0", 30.0)
    recent.add("late", 62.0)
    assert (len(recent), recent.count("name0", 62.0), recent.count("name1", 62.0)) == (2, 1, 0)


def test_the_addresses_of_one_ipv6_network_are_one_peer() -> None:
    one, other = "2001:db8:1:2::1", "2001:db8:1:2:ffff::7"
    assert peer_of(one) == peer_of(other) == "2001:db8:1:2::/64"
    assert peer_of("2001:db8:1:3::1") != peer_of(one)
    assert peer_of("::ffff:203.0.113.7") == peer_of("203.0.113.7") == "203.0.113.7"
    assert peer_of("") == ""


async def test_another_address_of_the_network_does_not_get_new_tries() -> None:
    tries = Tries(lambda: 0.0)
    for at in range(MOST_WRONG):
        async with tries.reserved(f"2001:db8::{at:x}", "ada"):
            pass
    with pytest.raises(TooManyTries):
        async with tries.reserved("2001:db8::ffff", "ada"):
            pass


def test_a_peer_has_a_part_of_the_places_and_gives_them_back() -> None:
    shares = Shares(2)
    with shares.reserved("2001:db8::1"), shares.reserved("2001:db8::2"):
        with pytest.raises(TooManyTries), shares.reserved("2001:db8::3"):
            pass
        with shares.reserved("192.0.2.7"):
            pass
    with shares.reserved("2001:db8::3"):
        pass


def test_a_peer_writes_so_many_lines_a_minute() -> None:
    now = 0.0
    lines = LinesOfPeers(2, lambda: now)
    assert [lines.may_write("192.0.2.7") for _ in range(3)] == [True, True, False]
    assert lines.may_write("192.0.2.8")
    now = 61.0
    assert lines.may_write("192.0.2.7")


async def test_one_address_does_not_use_up_the_sign_ins_at_a_provider_that_hangs() -> None:
    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await released.wait()
        finally:
            writer.close()

    released = asyncio.Event()
    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = ConsoleOidc(issuer=f"http://127.0.0.1:{port}", client_id="x", users={"a@b.example": Role.ADMIN})
    sign_in = OidcSignIn(config, None, "http://127.0.0.1:1")

    async def begin(peer: str) -> str:
        try:
            return await sign_in.url_for(SignInAttempt.begin("/"), peer=peer)
        except (TooManyTries, TooManySignIns):
            return "refused"
        except ProviderUnavailable:
            return "away"

    many = [asyncio.create_task(begin("192.0.2.7")) for _ in range(20)]
    other = asyncio.create_task(begin("192.0.2.8"))
    asyncio.get_running_loop().call_soon(released.set)  # runs after the first step of each sign-in
    found = Counter(await asyncio.gather(*many))
    assert found["refused"] > 10
    assert await other == "away"
    server.close()
