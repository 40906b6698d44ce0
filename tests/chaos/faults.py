"""The faults of a chaos run and their schedule, derived from the seed. Positions count deliveries answered 200."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import asyncpg

from eventlog.groups import Groups
from local.stack.postgres_programs import binary
from schemas.kafka_access import KafkaAccess
from tests.chaos import log
from tests.chaos.postbox import Postbox
from tests.chaos.small_disk import NoSmallDisk, SmallDisk
from tests.faulty_mailbox import MailboxFault
from tests.kits.systemkit import RiggedSystem

EVENTS, WORKERS = "billing.events", "billing.worker"
SESSION_TIMEOUT_S = 6
"""Session timeout of the workers in a chaos run. The allowed minimum, because each death lasts that long."""


class FaultKind(StrEnum):
    KILL_WORKER = "kill -9 worker"
    KILL_WORKERS = "kill -9 all workers"
    KILL_GATEWAY = "kill -9 gateway"
    KILL_DISPATCHER = "kill -9 dispatcher"
    KILL_SCHEDULER = "kill -9 scheduler"
    KILL_POSTGRES = "kill -9 postgres"
    KILL_KAFKA = "kill -9 kafka"
    STOP_POSTGRES = "stop postgres for a while"
    KILL_WORKER_WITHOUT_POSTGRES = "kill -9 worker while postgres is stopped"
    RESTART_WORKER = "SIGTERM worker"
    MOVE_ALL = "every partition moves to another worker"
    ROLLING_RESTART = "rolling restart of all"
    ZOMBIE = "worker paused past its session, and resumed"
    DISK_FULL = "kafka's disk is full"
    NO_CONNECTIONS = "postgres out of connections"
    SMTP_REFUSES = "mail server refuses"
    SMTP_DEFERS = "mail server defers"
    SMTP_HANGS = "mail server hangs"
    SMTP_DIES = "mail server takes a mail and dies"
    RESTORE = "postgres restored from a dump"
    FAILOVER = "failover to a replica without the last commits"
    OFFSETS_TO_ZERO = "the group's offsets set to 0"


WORKER_DEATHS = (FaultKind.KILL_WORKER, FaultKind.KILL_WORKERS, FaultKind.ZOMBIE)


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault to inject once `at` deliveries are answered 200."""

    at: int
    kind: FaultKind
    seed: int


def schedule(seed: int, deliveries: int, count: int, kinds: Sequence[FaultKind] = tuple(FaultKind)) -> list[Planned]:
    """`count` faults spread over the run. Each kind occurs once before any occurs twice."""
    chance = random.Random(seed + 2)
    chosen: list[FaultKind] = []
    while len(chosen) < count:
        chosen += chance.sample(kinds, len(kinds))
    span = 0.85 * deliveries / max(1, count)
    return [
        Planned(int(deliveries * 0.05 + span * (number + chance.random() * 0.5)), kind, chance.getrandbits(32))
        for number, kind in enumerate(chosen[:count])
    ]


@dataclass(frozen=True, slots=True)
class Faults:
    """Injects faults into a running system. A stopped or starved part stays so for `pause_s` seconds."""

    system: RiggedSystem
    postbox: Postbox
    kafkas_disk: SmallDisk | None = None
    """The file system with the broker's data. Without it DISK_FULL raises NoSmallDisk."""
    pause_s: float = 20.0

    async def strike(self, planned: Planned) -> None:
        """Inject the fault, and undo it if the system cannot recover from it alone."""
        chance = random.Random(planned.seed)
        workers = self._named("worker-")
        worker = chance.choice(workers)
        match planned.kind:
            case FaultKind.KILL_WORKER:
                await self._kill(worker)
            case FaultKind.KILL_WORKERS:
                await asyncio.gather(*map(self._kill, workers))
            case (
                FaultKind.KILL_GATEWAY
                | FaultKind.KILL_DISPATCHER
                | FaultKind.KILL_SCHEDULER
                | FaultKind.KILL_POSTGRES
                | FaultKind.KILL_KAFKA
            ):
                await self._kill(planned.kind.rpartition(" ")[2])
            case FaultKind.STOP_POSTGRES:
                await self._without_postgres(self._keep_fault)
            case FaultKind.KILL_WORKER_WITHOUT_POSTGRES:
                await self._without_postgres(lambda: self._kill(worker), self._keep_fault)
            case FaultKind.RESTART_WORKER:
                await self._restart(worker)
            case FaultKind.MOVE_ALL:
                await self._move_all(worker, [name for name in workers if name != worker])
            case FaultKind.ROLLING_RESTART:
                for name in (*workers, "gateway", "dispatcher", "scheduler"):
                    await self._restart(name)
            case FaultKind.ZOMBIE:
                self.system.pause(worker)
                await asyncio.sleep(SESSION_TIMEOUT_S + 4)  # the pause is the fault
                self.system.resume(worker)
            case FaultKind.DISK_FULL:
                await self._without_space()
            case FaultKind.NO_CONNECTIONS:
                await self._without_connections()
            case FaultKind.SMTP_REFUSES:
                self.postbox.fail_next(MailboxFault.REFUSE_CONNECTION, 4)
            case FaultKind.SMTP_DEFERS:
                self.postbox.fail_next(MailboxFault.TRY_LATER, 4)
            case FaultKind.SMTP_HANGS:
                self.postbox.fail_next(MailboxFault.HANG, 2)
            case FaultKind.SMTP_DIES:
                self.postbox.fail_next(MailboxFault.DIE_AFTER_DATA, 4)
            case FaultKind.RESTORE:
                await self._restore()
            case FaultKind.FAILOVER:
                await self._fail_over()
            case FaultKind.OFFSETS_TO_ZERO:
                await self._read_all_again(workers)

    async def _restore(self) -> None:
        """Dump the database, go on, stop who uses it, restore the dump, and start the workers before the others."""
        dump = self.system.state_dir / "dump"
        url, workers, others = self.system.postgres.url, self._named("worker-"), ("dispatcher", "scheduler")
        await _run(binary("pg_dump"), "--format=custom", f"--file={dump}", f"--dbname={url}")
        await self._keep_fault()
        await asyncio.gather(*(asyncio.to_thread(self.system.terminate, name) for name in (*workers, *others)))
        await _run(binary("pg_restore"), "--clean", "--if-exists", "--exit-on-error", f"--dbname={url}", str(dump))
        for name in workers:
            await asyncio.to_thread(self.system.start_again, name)
        for name in workers:
            await asyncio.to_thread(self.system.wait_ready, name)
        for name in others:
            await asyncio.to_thread(self.system.start_again, name)

    async def _fail_over(self) -> None:
        """Replace the server's data by a copy that is `pause_s` old, while everything runs."""
        data = self.system.state_dir / "postgres" / "data"
        replica = data.with_name("replica")

        async def copy() -> None:
            await _run("cp", "--archive", str(data), str(replica))

        async def promote() -> None:
            await asyncio.to_thread(shutil.rmtree, data)
            replica.rename(data)

        await self._without_postgres(copy)
        await self._keep_fault()
        await self._without_postgres(promote)

    async def _read_all_again(self, workers: Sequence[str]) -> None:
        await asyncio.gather(*(asyncio.to_thread(self.system.terminate, name) for name in workers))
        access = KafkaAccess(self.system.kafka.bootstrap)
        ends = await asyncio.to_thread(log.ends, access.bootstrap, EVENTS)
        await asyncio.to_thread(Groups(access).commit, WORKERS, EVENTS, dict.fromkeys(ends or {}, 0))
        for name in workers:
            await asyncio.to_thread(self.system.start_again, name)

    def _named(self, prefix: str) -> list[str]:
        return [name for name in self.system.parts if name.startswith(prefix)]

    async def _keep_fault(self) -> None:
        await asyncio.sleep(self.pause_s)  # the pause is the fault: there is no condition to wait for

    async def _kill(self, name: str) -> None:
        await asyncio.to_thread(self.system.kill, name)

    async def _restart(self, name: str) -> None:
        await asyncio.to_thread(self.system.terminate, name)
        await asyncio.to_thread(self.system.start_again, name)
        await asyncio.to_thread(self.system.wait_ready, name)

    async def _move_all(self, worker: str, others: Sequence[str]) -> None:
        """Let `worker` take over all partitions. Once the others are back, restart it, so they get its partitions."""
        await asyncio.gather(*(asyncio.to_thread(self.system.terminate, name) for name in others))
        await self._keep_fault()
        for name in others:
            await asyncio.to_thread(self.system.start_again, name)
        for name in others:
            await asyncio.to_thread(self.system.wait_ready, name)
        await self._restart(worker)

    async def _without_space(self) -> None:
        """Fill the broker's disk. The broker gives up its only log directory, exits, and cannot start without space."""
        if self.kafkas_disk is None:
            raise NoSmallDisk("the broker's data is on the machine's own disk")
        self.kafkas_disk.fill()
        try:
            await self._keep_fault()
        finally:
            self.kafkas_disk.free()

    async def _without_postgres(self, *steps: Callable[[], Awaitable[None]]) -> None:
        await asyncio.to_thread(self.system.postgres.stop)
        try:
            for step in steps:
                await step()
        finally:
            await asyncio.to_thread(self.system.postgres.start)

    async def _without_connections(self) -> None:
        """Take all of Postgres' connections, the clients' too, and release them after the pause."""
        taken: list[asyncpg.Connection[asyncpg.Record]] = []
        try:
            await self._take_connections(taken)
            await taken[0].execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'billing-%'"
            )
            await self._take_connections(taken)
            await self._keep_fault()
        finally:
            for connection in taken:
                connection.terminate()

    async def _take_connections(self, taken: list[asyncpg.Connection[asyncpg.Record]]) -> None:
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                taken.append(await asyncpg.connect(self.system.postgres.url, timeout=10))


async def _run(*command: str) -> None:
    """Run a program to its end. Raises RuntimeError with its errors."""
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command[0]}: {errors.decode(errors='replace')[-2000:]}")


def kinds_named(words: str) -> list[FaultKind]:
    """The kinds with names that contain any of the comma-separated texts. Raises ValueError if a text matches none."""
    found: list[FaultKind] = []
    for word in words.split(","):
        matching = [kind for kind in FaultKind if re.search(re.escape(word.strip()), kind)]
        if not matching:
            raise ValueError(f"no fault is called {word!r}; there are: {', '.join(FaultKind)}")
        found += matching
    return list(dict.fromkeys(found))
