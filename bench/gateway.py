"""Measures the gateway: requests per second, compared with an app that only verifies and with a bare producer."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench.figures import Figures, Ratio, percentiles
from bench.load import Json, Load
from bench.place import SECRET, BenchServers, Site
from bench.posting import NotAccepted, post_all, requests_of
from bench.processes import answers, billing, measured, running
from local.stack.ports import free_port, is_free
from local.waiting import end_of, wait_until

CONNECTIONS = (1, 16, 64)
PROCESSES = (1, 2)
LIMIT = "verify, then produce"
"""What one core could do that verifies a request and then produces its record: 1 / (1 / one rate + 1 / the other)."""


async def gateway(place: BenchServers, figures: Figures, rounds: int, requests: int) -> None:
    """Measure every combination once in each round.

    A single connection gets a quarter of the requests, so that it takes about as long as the others.
    """
    site = await place.site("gateway")
    events = list(Load(requests, customers=1_000).bodies())
    with ExitStack() as stack:
        gateways = {count: stack.enter_context(gateway_of(site, count)) for count in PROCESSES}
        verifiers = {count: stack.enter_context(_verify_only(site, count)) for count in PROCESSES}
        # Warm up: the first requests to a server, and above all to the broker, are slow and not counted.
        for server in (*gateways.values(), *verifiers.values()):
            await post_all(server.port, requests_of(events[: requests // 2], "127.0.0.1"), max(CONNECTIONS))
        for _ in range(rounds):
            for connections in CONNECTIONS:
                share = events if connections > 1 else events[: requests // 4]
                for processes in PROCESSES:
                    at = f"{connections} connections, {processes} processes"
                    await _post(figures, "gateway", at, gateways[processes].port, share, connections)
                    verified = await _post(figures, "verify only", at, verifiers[processes].port, share, connections)
                    if connections >= processes:
                        alone = _produce_alone(site, len(share), connections, processes)
                        figures.add(f"produce alone, {at}", alone, "records/s")
                        figures.add(f"{LIMIT}, {at}", 1 / (1 / verified + 1 / alone), "requests/s")
    for connections in CONNECTIONS:
        for processes in PROCESSES:
            at = f"{connections} connections, {processes} processes"
            for limit in ("verify only", "produce alone", LIMIT):
                figures.ratios.append(Ratio(f"gateway, {at}", f"{limit}, {at}"))


@dataclass(frozen=True, slots=True)
class BenchServer:
    """The port a server listens on, and the id of its (first) process."""

    port: int
    pid: int


@contextmanager
def gateway_of(site: Site, processes: int = 1) -> Iterator[BenchServer]:
    """Run `billing gateway`; enter the block when it is ready."""
    port, ops_port = free_port(), free_port()
    environment = site.environment(
        BILLING_GATEWAY_PORT=str(port),
        BILLING_OPS_PORT=str(ops_port),
        BILLING_GATEWAY_PROCESSES=str(processes),
        BILLING_GATEWAY_DRAIN_S="0",
    )
    log = site.folder / f"gateway-{processes}.log"
    with running(billing("gateway"), environment, log) as process:
        wait_until(
            lambda: answers(f"http://127.0.0.1:{ops_port}/readyz"), "the gateway", within_s=30, process=process, log=log
        )
        time.sleep(1)  # /readyz answers for one process only; give the second time to listen too
        try:
            yield BenchServer(port, process.pid)
        except NotAccepted as error:  # the answer says less than the log, which ends with the benchmark
            raise NotAccepted(f"{error}{end_of(log)}") from error


@contextmanager
def _verify_only(site: Site, processes: int) -> Iterator[BenchServer]:
    port, log = free_port(), site.folder / "verify-only.log"
    with ExitStack() as stack:
        for _ in range(processes):
            command = [sys.executable, "-m", "bench.verify_only", str(port), SECRET]
            process = stack.enter_context(running(command, site.environment(), log))
        wait_until(lambda: not is_free(port), "the app that only verifies", within_s=30, process=process, log=log)
        time.sleep(1)
        yield BenchServer(port, process.pid)


async def _post(figures: Figures, name: str, at: str, port: int, events: list[Json], connections: int) -> float:
    posted = await post_all(port, requests_of(events, "127.0.0.1"), connections)
    figures.add(f"{name}, {at}", posted.per_s, "requests/s")
    for label, value in zip(("p50", "p95", "p99"), percentiles(posted.latencies_ms), strict=True):
        figures.add(f"{name}, {at}: {label}", value, "ms")
    return posted.per_s


def _produce_alone(site: Site, records: int, at_once: int, processes: int) -> float:
    arguments = [
        site.settings.kafka_bootstrap, site.settings.events_topic, str(records // processes), str(at_once // processes)
    ]  # fmt: skip
    with ThreadPoolExecutor(processes) as pool:
        runs = [
            pool.submit(measured, "bench.produce_alone", arguments, site.environment(), 120) for _ in range(processes)
        ]
        return sum(float(run.result()["per_s"]) for run in runs)
