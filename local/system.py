"""The whole flow on one machine: Kafka, Postgres and a mailbox beside gateway, workers, dispatcher and scheduler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from local.stack.kafka import EmbeddedKafka, OtherBrokers
from local.stack.kafka_jars import KafkaNotFetched
from local.stack.ports import NoFreePort, is_free, kept_port
from local.stack.postgres import EmbeddedPostgres
from local.stack.process import Process, ServerNotReady, end_leftovers
from local.stack.supervisor import Child, Supervisor
from local.state_dir import AlreadyRunning, Claim, link_secret, own_config, write_env
from schemas.settings import CLOCK_OFFSET, Config, InvalidSettings, Mode, Settings, load_config

READY_TIMEOUT = 60.0
"""Seconds for the processes to be ready, once Kafka and Postgres answer."""

_COMMAND_TIMEOUT = 120.0
_ROOT = Path(__file__).parent.parent
_BILLING = (sys.executable, "-m", "ops.cli")

Say = Callable[[str], None]


class SystemNotStarted(Exception):
    """A step of the start failed; the message names it and ends with what it printed."""


class System:
    """Everything that `billing up` runs, in `state_dir`, whose data is kept. `stop` leaves nothing running.

    `kafka` and `postgres` can be stopped and started by hand; what dies without that is restarted, and said so.
    """

    def __init__(self, state_dir: Path, workers: int, say: Say, *, analytics: bool = False, brokers: int = 1) -> None:
        self.state_dir = state_dir.absolute()
        self.mailbox_dir = self.state_dir / "mail"
        self.kafka = EmbeddedKafka(self.state_dir, brokers=brokers, say=say)
        self.postgres = EmbeddedPostgres(self.state_dir)
        self.env: dict[str, str] = {}
        """What `STATE_DIR/env` holds, once started."""
        self.clock_ahead_s = 0
        """By how much timers are due earlier than they say, see `move_clock`."""
        self._workers = workers
        self._analytics = analytics
        self._say = say
        self._claim = Claim(self.state_dir)
        self._supervisor = Supervisor(self.state_dir, say)

    @property
    def gateway_url(self) -> str:
        """http://127.0.0.1:port, without a path."""
        return f"http://127.0.0.1:{kept_port(self.state_dir, 'gateway')}"

    @property
    def children(self) -> dict[str, int]:
        """The process id of each part that is alive, by name."""
        return {name: process.pid for name, process in self._supervisor.processes.items() if process.pid is not None}

    def ops_url(self, name: str) -> str:
        """Where a worker, the dispatcher or the scheduler answers, without a path."""
        return f"http://127.0.0.1:{kept_port(self.state_dir, f'{name}-ops')}"

    def metrics_url(self, name: str) -> str:
        """Where a worker, the dispatcher or the scheduler shows its figures."""
        return f"{self.ops_url(name)}/metrics"

    @property
    def config(self) -> Config:
        """Endpoints, plans and mail as the processes see them. Raises InvalidSettings."""
        return load_config(self._config_path())

    def start(self) -> None:
        """Start all and return when all are ready.

        Raises AlreadyRunning, InvalidSettings, KafkaNotFetched, OtherBrokers, ServerNotReady or SystemNotStarted; call
        `stop` then.
        """
        self._claim.take()
        if left := end_leftovers(self.state_dir):
            self._say(f"Ended what an earlier run left behind: {', '.join(left)}")
        secret = _test_secret(self.config)
        begun = time.monotonic()
        self._say("Starting Kafka, PostgreSQL and the mailbox")
        for broker in self.kafka.spawn():  # it takes longest: the rest starts beside it
            self._supervisor.watch(broker)
        self.postgres.start()
        if self.postgres.process is not None:
            self._supervisor.watch(self.postgres.process)
        mailbox = self._mailbox()
        self._supervisor.run(mailbox)
        self.env = self._environment(secret)
        write_env(self.state_dir, self.env)
        self._run("migrate")
        self.kafka.start()
        self._run("topics")
        self._say(f"Kafka on {self.kafka.bootstrap}, PostgreSQL on 127.0.0.1:{self.postgres.port}")
        self._say(f"Starting gateway, {self._workers} worker(s), dispatcher and scheduler")
        children = [
            self._gateway(),
            *map(self._worker, range(1, self._workers + 1)),
            self._dispatcher(),
            self._scheduler(),
            *([self._with_ops_port("analytics", "analytics")] if self._analytics else []),
        ]
        for child in children:
            self._supervisor.run(child)
        for child in (mailbox, *children):
            self._supervisor.wait_ready(child, timeout=READY_TIMEOUT)
        self._claim.mark_ready()
        self._say(f"Ready after {time.monotonic() - begun:.1f} s: {self.gateway_url}/webhooks/stripe")

    def stop(self) -> None:
        """End every process, in reverse order, within bounds."""
        self._supervisor.stop()
        self.kafka.stop()
        self.postgres.stop()
        self._claim.drop()

    def move_clock(self, days: int) -> None:
        """Let it be so many days later than it is, for timers: their scheduler starts again. Raises ServerNotReady."""
        self.clock_ahead_s = days * 86_400
        self._process("scheduler").stop()
        child = self._scheduler()
        self._supervisor.run(child)
        self._supervisor.wait_ready(child, timeout=READY_TIMEOUT)

    def kill(self, name: str) -> None:
        """SIGKILL a part; it will be restarted."""
        self._process(name).kill()

    def pause(self, name: str) -> None:
        """SIGSTOP a part."""
        self._process(name).pause()

    def resume(self, name: str) -> None:
        """SIGCONT a part."""
        self._process(name).resume()

    def log_of(self, name: str) -> Path:
        """The file that a part's output goes to."""
        return self._process(name).log

    def _process(self, name: str) -> Process:
        return self._supervisor.processes[name]

    def _config_path(self) -> Path:
        given = os.environ.get("BILLING_CONFIG")
        return Path(given).absolute() if given else own_config(self.state_dir)

    def _environment(self, secret: str) -> dict[str, str]:
        smtp = kept_port(self.state_dir, "mailbox")
        inherited = {
            key: os.environ[key] for name in Settings.model_fields if (key := f"BILLING_{name.upper()}") in os.environ
        }
        return {
            "BILLING_STRIPE_API_KEY": "",
            "BILLING_STRIPE_API_BASE": "https://api.stripe.com",
            "BILLING_TOPIC_PREFIX": "billing",
            "BILLING_PARTITIONS": "12",
            **inherited,
            "BILLING_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "BILLING_DATABASE_URL": self.postgres.url,
            "BILLING_SMTP_URL": f"smtp://127.0.0.1:{smtp}",
            "BILLING_CONFIG": str(self._config_path()),
            "BILLING_REPLICATION_FACTOR": str(len(self.kafka.nodes)),
            "BILLING_GATEWAY_HOST": "127.0.0.1",
            "BILLING_GATEWAY_PORT": str(kept_port(self.state_dir, "gateway")),
            "BILLING_GATEWAY_URL": self.gateway_url,
            "BILLING_WEBHOOK_SECRET": secret,
            "BILLING_WORKER_URL": self.ops_url("worker-1"),
            "BILLING_DISPATCHER_URL": self.ops_url("dispatcher"),
            "BILLING_SCHEDULER_URL": self.ops_url("scheduler"),
            "BILLING_PUBLIC_URL": self.gateway_url,
            "BILLING_LINK_SECRET": link_secret(self.state_dir),
            "BILLING_EXPORTS_URL": str(self.state_dir / "exports"),
            "BILLING_MAILBOX_DIR": str(self.mailbox_dir),
        }

    def _mailbox(self) -> Child:
        port = kept_port(self.state_dir, "mailbox")
        argv = [sys.executable, "-m", "local.stack.mailbox", "--port", str(port), "--dir", str(self.mailbox_dir)]
        return Child("mailbox", argv, cwd=_ROOT, port=port, ready=lambda: not is_free(port))

    def _gateway(self) -> Child:
        port = kept_port(self.state_dir, "gateway")
        return Child(
            "gateway",
            [*_BILLING, "gateway"],
            self._environment_of("gateway"),
            ready=f"{self.gateway_url}/readyz",
            cwd=_ROOT,
            port=port,
        )

    def _worker(self, number: int) -> Child:
        name = f"worker-{number}"
        child = self._with_ops_port(name, "worker")
        return replace(child, env={**child.env, "BILLING_MEMBER_ID": name})

    def _dispatcher(self) -> Child:
        return self._with_ops_port("dispatcher", "dispatcher")

    def _scheduler(self) -> Child:
        child = self._with_ops_port("scheduler", "scheduler")
        return replace(child, env={**child.env, CLOCK_OFFSET: str(self.clock_ahead_s)})

    def _with_ops_port(self, name: str, command: str) -> Child:
        port = kept_port(self.state_dir, f"{name}-ops")
        return Child(
            name,
            [*_BILLING, command],
            {**self._environment_of(name), "BILLING_OPS_HOST": "127.0.0.1", "BILLING_OPS_PORT": str(port)},
            ready=f"http://127.0.0.1:{port}/readyz",
            cwd=_ROOT,
            port=port,
        )

    def _environment_of(self, name: str) -> dict[str, str]:
        return {**self.env, "BILLING_STATE_DIR": str(self.state_dir / name), "PYTHONUNBUFFERED": "1"}

    def _run(self, command: str) -> None:
        """One of our own commands, to its end. Raises SystemNotStarted with the last lines it printed."""
        try:
            done = subprocess.run(
                [*_BILLING, command],
                cwd=_ROOT,
                env={**os.environ, **self._environment_of(command), "STATE_DIR": str(self.state_dir)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_COMMAND_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SystemNotStarted(f"`billing {command}` did not end within {_COMMAND_TIMEOUT:.0f} s") from None
        if done.returncode != 0:
            lines = "\n".join(done.stdout.strip().splitlines()[-15:])
            raise SystemNotStarted(f"`billing {command}` failed with exit code {done.returncode}:\n{lines}")


def _test_secret(config: Config) -> str:
    """The secret of endpoint `default`. Raises InvalidSettings where a user's own config has none in test mode."""
    endpoint = config.endpoints.get("default")
    if endpoint is None or endpoint.mode is not Mode.TEST:
        raise InvalidSettings('BILLING_CONFIG: `billing up` needs an endpoint `default` with mode = "test"')
    return endpoint.secrets[0].get_secret_value()


NOT_STARTED = (
    AlreadyRunning, InvalidSettings, KafkaNotFetched, NoFreePort, OtherBrokers, ServerNotReady, SystemNotStarted
)  # fmt: skip
"""Why a system may not start; each message stands by itself."""


_END_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class stop_on_exit:
    """Stops the system however the block ends: Ctrl-C, SIGTERM, SIGHUP (exit 128 + its number), an error."""

    def __init__(self, system: System) -> None:
        self._system = system

    def __enter__(self) -> None:
        for number in _END_SIGNALS:
            signal.signal(number, _end)

    def __exit__(self, *_: object) -> None:
        for number in _END_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # once is enough: what follows is bounded
        self._system.stop()


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
