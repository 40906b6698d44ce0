"""Runs the whole system on one machine: Kafka, Postgres, a mailbox, and all processes."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from local.stack.kafka import EmbeddedKafka, OtherBrokers
from local.stack.kafka_jars import KafkaNotFetched
from local.stack.ports import NoFreePort, is_free, kept_port
from local.stack.postgres import EmbeddedPostgres
from local.stack.process import ChildProcess, ServerNotReady, end_leftovers
from local.stack.supervisor import Child, Supervisor
from local.state_dir import AlreadyRunning, Claim, ForeignDirectory, link_secret, own_config, write_env
from schemas.environment import CLOCK_OFFSET
from schemas.errors import BillingError
from schemas.process_settings import SECRETS
from schemas.settings import Config, InvalidSettings, Settings, load_config, secret_variables
from schemas.webhook_secrets import VARIABLE as WEBHOOK_SECRET

READY_TIMEOUT = 60.0
"""Seconds within which the processes must be ready after Kafka and Postgres answer."""

_COMMAND_TIMEOUT = 120.0
_ROOT = Path(__file__).parent.parent
_BILLING = (sys.executable, "-m", "ops.cli")

Say = Callable[[str], None]


_OWN_SERVERS = {
    f"BILLING_{name.upper()}": str(field.default or "")
    for name, field in Settings.model_fields.items()
    if name.startswith("kafka_") and not field.is_required()
} | {
    f"BILLING_{name}_FILE": ""
    for name in ("DATABASE_URL", "SMTP_URL", "LINK_SECRET", "KAFKA_SASL_PASSWORD", "CONSOLE_TOKEN")
}
"""Settings for the servers started here. Those of the caller's environment are for other servers."""


_SMTP = ("BILLING_SMTP_URL", "BILLING_SMTP_URL_FILE")
_WEBHOOK_SECRETS = (WEBHOOK_SECRET, f"{WEBHOOK_SECRET}_FILE")


class SystemNotStarted(BillingError):
    """A step of the start failed; the message names the step and ends with its output."""


class System:
    """All processes of `billing up`. Data is kept in `state_dir`. `stop` stops every process.

    Callers may stop and start `kafka` and `postgres`. A process that dies otherwise is reported and restarted.
    """

    def __init__(
        self,
        state_dir: Path,
        workers: int,
        say: Say,
        *,
        analytics: bool = False,
        brokers: int = 1,
        shadow: bool = False,
        given: Mapping[str, str] | None = None,
    ) -> None:
        """`shadow`: begin in shadow mode, in which nothing leaves the system.

        `given` is the caller's environment, if its mail server and webhook secret are used beside our own.
        """
        self.state_dir = state_dir.absolute()
        self.mailbox_dir = self.state_dir / "mail"
        self.kafka = EmbeddedKafka(self.state_dir, brokers=brokers, say=say)
        self.postgres = EmbeddedPostgres(self.state_dir)
        self.env: dict[str, str] = {}
        """The content of `STATE_DIR/env`; empty before the start."""
        self.clock_ahead_s = 0
        """Seconds by which the scheduler's clock is ahead, see `move_clock`."""
        self._workers = workers
        self._analytics = analytics
        self._shadow = shadow
        self._given = given or {}
        self._console_token = secrets.token_urlsafe(32)
        self._say = say
        self._claim = Claim(self.state_dir)
        self._supervisor = Supervisor(self.state_dir, say)

    @property
    def gateway_url(self) -> str:
        """http://127.0.0.1:port, without a path."""
        return f"http://127.0.0.1:{kept_port(self.state_dir, 'gateway')}"

    @property
    def console_url(self) -> str:
        """The console's address with a token that signs in once."""
        return f"{self._console_base}/sign-in?token={self._console_token}"

    @property
    def _console_base(self) -> str:
        return f"http://127.0.0.1:{kept_port(self.state_dir, 'console')}"

    @property
    def children(self) -> dict[str, int]:
        """The process ids of all living processes, by name."""
        return {name: process.pid for name, process in self._supervisor.processes.items() if process.pid is not None}

    def ops_url(self, name: str) -> str:
        """Return the ops URL of a worker, the dispatcher or the scheduler, without a path."""
        return f"http://127.0.0.1:{kept_port(self.state_dir, f'{name}-ops')}"

    def metrics_url(self, name: str) -> str:
        """Return the metrics URL of a worker, the dispatcher or the scheduler."""
        return f"{self.ops_url(name)}/metrics"

    @property
    def has_foreign_mail_server(self) -> bool:
        """Whether the caller's mail server is used. A shell that has read STATE_DIR/env names a mailbox of `up`."""
        return "BILLING_MAILBOX_DIR" not in self._given and any(self._given.get(name) for name in _SMTP)

    @property
    def config(self) -> Config:
        """The config that the processes use. Raises InvalidSettings."""
        return load_config(self._config_path())

    def start(self) -> None:
        """Start all processes and return when all are ready.

        Raises AlreadyRunning, ForeignDirectory, InvalidSettings, KafkaNotFetched, NoFreePort, OtherBrokers,
        ServerNotReady or SystemNotStarted. Call `stop` then.
        """
        self._claim.take(self._say)
        if left := end_leftovers(self.state_dir):
            self._say(f"Stopped processes of an earlier run: {', '.join(left)}")
        secret = _test_secret(self.config)
        begun = time.monotonic()
        self._say("Starting Kafka, PostgreSQL and the mailbox")
        with ThreadPoolExecutor(1) as beside:  # Kafka takes longest, so the rest starts while it does
            spawned = beside.submit(self.kafka.spawn)
            self.postgres.start()
        for broker in spawned.result():
            self._supervisor.watch(broker)
        if self.postgres.process is not None:
            self._supervisor.watch(self.postgres.process)
        mailboxes = [] if self.has_foreign_mail_server else [self._mailbox()]
        for mailbox in mailboxes:
            self._supervisor.run(mailbox)
        self.env = self._environment(secret)
        write_env(self.state_dir, self.env)
        self._run("migrate", *(["--shadow"] if self._shadow else []))
        self.kafka.start()
        self._run("topics", "--warn")
        self._say(f"Kafka on {self.kafka.bootstrap}, PostgreSQL on 127.0.0.1:{self.postgres.port}")
        analytics = ", analytics" if self._analytics else ""
        self._say(f"Starting gateway, {self._workers} worker(s), dispatcher, scheduler{analytics} and console")
        children = [
            self._gateway(),
            *map(self._worker, range(1, self._workers + 1)),
            self._dispatcher(),
            self._scheduler(),
            self._console(),
            *([self._with_ops_port("analytics", "analytics")] if self._analytics else []),
        ]
        for child in children:
            self._supervisor.run(child)
        for child in (*mailboxes, *children):
            self._supervisor.wait_ready(child, timeout=READY_TIMEOUT)
        for child in children:
            if (reason := self._supervisor.held_by(child)) is not None:
                self._say(f"{child.name}: {reason}")
        self._claim.mark_ready()
        self._say(f"Ready after {time.monotonic() - begun:.1f} s: {self.gateway_url}/webhooks/stripe")
        self._say(f"Console, signs in once: {self.console_url}")

    def stop(self) -> None:
        """Stop every process, the servers last. Kills processes that do not stop in time."""
        self._supervisor.stop()
        with ThreadPoolExecutor() as together:
            list(together.map(lambda server: server.stop(), (self.kafka, self.postgres)))
        self._claim.drop()

    def move_clock(self, days: int) -> None:
        """Move the scheduler's clock `days` ahead (restarts the scheduler). Raises ServerNotReady."""
        self.clock_ahead_s = days * 86_400
        self._process("scheduler").stop()
        child = self._scheduler()
        self._supervisor.run(child)
        self._supervisor.wait_ready(child, timeout=READY_TIMEOUT)

    def kill(self, name: str) -> None:
        """Send SIGKILL to a process; it is restarted."""
        self._process(name).kill()

    def pause(self, name: str) -> None:
        """Send SIGSTOP to a process."""
        self._process(name).pause()

    def resume(self, name: str) -> None:
        """Send SIGCONT to a process."""
        self._process(name).resume()

    def _process(self, name: str) -> ChildProcess:
        return self._supervisor.processes[name]

    def _config_path(self) -> Path:
        given = os.environ.get("BILLING_CONFIG")
        return Path(given).absolute() if given else own_config(self.state_dir)

    def _environment(self, secret: str) -> dict[str, str]:
        inherited = {
            key: os.environ[key] for name in Settings.model_fields if (key := f"BILLING_{name.upper()}") in os.environ
        }
        return {
            "BILLING_STRIPE_API_KEY": "",
            "BILLING_STRIPE_API_BASE": "https://api.stripe.com",
            "BILLING_TOPIC_PREFIX": "billing",
            "BILLING_PARTITIONS": "12",
            **inherited,
            **_OWN_SERVERS,
            "BILLING_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "BILLING_DATABASE_URL": self.postgres.url,
            **self._mail_server(),
            "BILLING_CONFIG": str(self._config_path()),
            "BILLING_REPLICATION_FACTOR": str(len(self.kafka.nodes)),
            "BILLING_GATEWAY_HOST": "127.0.0.1",
            "BILLING_GATEWAY_PORT": str(kept_port(self.state_dir, "gateway")),
            "BILLING_GATEWAY_URL": self.gateway_url,
            "BILLING_GATEWAY_OPS_URL": self.ops_url("gateway"),
            "BILLING_GATEWAY_DRAIN_S": os.environ.get("BILLING_GATEWAY_DRAIN_S", "0"),  # no load balancer in front
            "BILLING_WEBHOOK_SECRET": secret,
            "BILLING_CONSOLE_URL": self.console_url,
            "BILLING_CONSOLE_HOST": "127.0.0.1",
            "BILLING_CONSOLE_PORT": str(kept_port(self.state_dir, "console")),
            "BILLING_CONSOLE_PUBLIC_URL": "",
            "BILLING_WORKER_URL": self.ops_url("worker-1"),
            "BILLING_DISPATCHER_URL": self.ops_url("dispatcher"),
            "BILLING_SCHEDULER_URL": self.ops_url("scheduler"),
            "BILLING_PUBLIC_URL": self.gateway_url,
            "BILLING_LINK_SECRET": link_secret(self.state_dir),
            "BILLING_EXPORTS_URL": str(self.state_dir / "exports"),
            "BILLING_MAILBOX_DIR": str(self.mailbox_dir),
        }

    def _mail_server(self) -> dict[str, str]:
        if self.has_foreign_mail_server:
            return {name: self._given.get(name, "") for name in _SMTP}
        return {"BILLING_SMTP_URL": f"smtp://127.0.0.1:{kept_port(self.state_dir, 'mailbox')}"}

    def _mailbox(self) -> Child:
        port = kept_port(self.state_dir, "mailbox")
        argv = [sys.executable, "-m", "local.stack.mailbox", "--port", str(port), "--dir", str(self.mailbox_dir)]
        return Child("mailbox", argv, cwd=_ROOT, port=port, ready=lambda: not is_free(port), is_server=True)

    def _gateway(self) -> Child:
        port, ops_port = (kept_port(self.state_dir, name) for name in ("gateway", "gateway-ops"))
        # The secret of `stripe listen` beside the config's own, which the gateway reads from there.
        secrets_given = {name: self._given[name] for name in _WEBHOOK_SECRETS if self._given.get(name)}
        return Child(
            "gateway",
            [*_BILLING, "gateway"],
            {
                **self._environment_of("gateway"),
                **secrets_given,
                "BILLING_OPS_HOST": "127.0.0.1",
                "BILLING_OPS_PORT": str(ops_port),
            },
            ready=f"http://127.0.0.1:{ops_port}/readyz",
            cwd=_ROOT,
            port=port,
        )

    def _worker(self, number: int) -> Child:
        name = f"worker-{number}"
        child = self._with_ops_port(name, "worker")
        return replace(child, env={**child.env, "BILLING_MEMBER_ID": name}, may_be_held=True)

    def _dispatcher(self) -> Child:
        return self._with_ops_port("dispatcher", "dispatcher")

    def _scheduler(self) -> Child:
        child = self._with_ops_port("scheduler", "scheduler")
        return replace(child, env={**child.env, CLOCK_OFFSET: str(self.clock_ahead_s)})

    def _console(self) -> Child:
        watched = [
            "gateway",
            *(f"worker-{number}" for number in range(1, self._workers + 1)),
            "dispatcher",
            "scheduler",
        ]
        watched += ["analytics"] if self._analytics else []
        child = self._with_ops_port("console", "console")
        watches = ",".join(f"{name}={self.ops_url(name)}" for name in watched)
        more = {"BILLING_CONSOLE_WATCHES": watches, "BILLING_CONSOLE_TOKEN": self._console_token}
        return replace(child, env={**child.env, **more}, port=kept_port(self.state_dir, "console"))

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
        """Return what the process needs of the environment: no secret that it does not use."""
        process = name.partition("-")[0]
        unused = {
            variable for variable, field in secret_variables().items() if field not in SECRETS.get(process, {field})
        }
        if process in SECRETS and process != "gateway":
            unused.add(WEBHOOK_SECRET)
        return {
            **self.env,
            **dict.fromkeys(unused, ""),
            "BILLING_STATE_DIR": str(self.state_dir / name),
            "PYTHONUNBUFFERED": "1",
        }

    def _run(self, command: str, *options: str) -> None:
        """Run a `billing` command to its end. Raises SystemNotStarted with the last lines of its output."""
        try:
            done = subprocess.run(
                [*_BILLING, command, *options],
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
    """Return the secret of the endpoint `default`. Raises InvalidSettings if it is missing."""
    endpoint = config.endpoints.get("default")
    if endpoint is None:
        raise InvalidSettings("BILLING_CONFIG: `billing up` needs an endpoint `default`")
    return endpoint.secrets[0].get_secret_value()


NOT_STARTED = (
    AlreadyRunning, ForeignDirectory, InvalidSettings, KafkaNotFetched, NoFreePort, OtherBrokers, ServerNotReady,
    SystemNotStarted,
)  # fmt: skip
"""Errors that `System.start` raises. Each message is complete without the error's name."""


END_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""Each of them stops the whole system."""


class stop_on_exit:
    """Stops the system when the block ends, also after an error, Ctrl-C, SIGTERM or SIGHUP (exit 128 + number)."""

    def __init__(self, system: System) -> None:
        self._system = system

    def __enter__(self) -> None:
        for number in END_SIGNALS:
            signal.signal(number, _end)

    def __exit__(self, *_: object) -> None:
        for number in END_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # ignore further signals: the stop below takes a limited time
        self._system.stop()


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
