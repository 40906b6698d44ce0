"""The pure parts of the pages: what is worst, what is masked, what a board and a calendar show."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from pydantic import SecretStr

from console import charts, formats, passwords
from console.jobs import filter_from_json, filter_to_json
from console.masking import masked
from console.pages.checks import gaps_of
from console.pages.dead import fragment_of
from console.pages.money import board, by_currency
from console.pages.overview import by_minute, facts_of
from console.pages.record import people_shown
from console.pages.session import own_path
from console.pages.story import next_steps, timeline_of
from console.pages.timers import by_day, mails_by_day
from console.reads import PanelFailure
from schemas.console_settings import ConsoleConfig, ConsoleOidc, ConsoleProxy, ConsoleUser, Role
from schemas.settings import DEFAULT_DUNNING, Config
from schemas.timer import RETRY
from sinks.postgres.dead_letter_index import LetterFilter
from sinks.postgres.outboxes import BY_TABLE, ERASED

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)

CALM: dict[str, Any] = {
    "brakes": [],
    "letters": {"open": 0, "more": False, "groups": 0, "since": None},
    "waiting": {"events": 0, "since": None},
    "outboxes": [{"outbox": "emails", "command": "mail", "failed": 0, "open": 3, "late_s": None}],
    "outages": [],
    "late_timers": {"timers": 0, "since": None},
    "unknown_prices": [],
    "runs": {"reconciliation": None, "audit": None},
    "lag": [{"partition": 0, "records": 5, "seconds": 1.0}],
    "processes": [{"name": "gateway", "state": "ready", "reason": ""}],
}
BRAKE = {"holds": True, "consumer_group": "billing.worker", "tripped_at": NOW, "message": "50 died"}
WORSE: list[tuple[str, Any, str]] = [
    ("letters", PanelFailure("no answer"), "letters: no answer"),
    ("brakes", [BRAKE], "The brake holds billing.worker"),
    ("letters", {"open": 12, "more": False, "groups": 2, "since": NOW}, "12 dead letters in 2 groups"),
    ("letters", {"open": 10_000, "more": True, "groups": 2, "since": NOW}, "10,000+ dead letters in 2 groups"),
    ("lag", [{"partition": 4, "records": 900, "seconds": 180.0}], "behind on partition 4"),
    ("outboxes", [{"outbox": "emails", "command": "mail", "failed": 2, "open": 0, "late_s": None}], "2 emails failed"),
    (
        "outboxes",
        [{"outbox": "emails", "command": "mail", "failed": 0, "open": 9, "late_s": 900.0}],
        "has been due for 15",
    ),
    ("compared", {"at": NOW, "who": "ada", "count": 3}, "3 rows of the state differ"),
    ("late_timers", {"timers": 1, "since": NOW}, "1 timer due and not fired"),
    ("waiting", {"events": 3, "since": NOW}, "3 events waiting"),
]


def test_all_is_well_only_if_everything_is_known() -> None:
    assert facts_of(CALM) == []
    assert facts_of(CALM | {"lag": PanelFailure("no broker answers")})


@pytest.mark.parametrize(("panel", "value", "text"), WORSE)
def test_each_fact_is_named_and_linked(panel: str, value: Any, text: str) -> None:
    (fact,) = facts_of(CALM | {panel: value})
    assert text in fact["text"]
    assert fact["url"].startswith("/")


def test_the_worst_comes_first() -> None:
    found = facts_of(CALM | {panel: value for panel, value, _ in reversed(WORSE)})
    assert found[0]["text"].startswith("letters: no answer")
    assert "brake" in found[1]["text"]
    assert "waiting" in found[-1]["text"]


def test_minutes_without_events_are_zero() -> None:
    rows = [{"minute": NOW - timedelta(minutes=2), "outcome": "dead", "events": 7}]
    minutes = by_minute(rows, NOW + timedelta(seconds=30))
    assert len(minutes) == 60
    assert [minute["dead"] for minute in minutes[-3:]] == [7, 0, 0]


def test_what_identifies_a_person_is_masked_and_amounts_are_not() -> None:
    given = {
        "customer": {"customer_id": "cus_1", "name": "Jane Doe", "email": "jane@example.com"},
        "plan": {"name": "Pro", "amount": 4900},
        "reason": "550 jane@example.com is unknown",
        "payload": {"a": 1},
        "changes": [
            {
                "table": "customers",
                "key": "cus_1",
                "fields": {
                    "name": ["Jane", "Joan"],
                    "address.city": ["Ulm", None],
                    "default_payment_method": [None, "pm_1"],
                },
            }
        ],
        "message_id": "<1@billing.example>",
    }
    found = masked(given)
    assert "ane" not in str(found)
    assert "Ulm" not in str(found)
    assert found["plan"] == given["plan"]
    assert found["payload"] is None
    assert found["message_id"] == given["message_id"]
    assert found["changes"][0]["fields"]["default_payment_method"] == [None, "pm_1"]
    assert given["customer"]["name"] == "Jane Doe"  # type: ignore[index]  # the data itself stays


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (124_000, "eur", "EUR\u00a01,240.00"),
        (1999, "jpy", "JPY\u00a01,999"),
        (1500, "kwd", "KWD\u00a01.500"),
        (9_007_199_254_740_993, "eur", "EUR\u00a090,071,992,547,409.93"),
        (5, "xxy", "5 xxy (minor units)"),
        (None, "eur", "\u2013"),
    ],
)
def test_amounts_are_exact(amount: int | None, currency: str, text: str) -> None:
    assert formats.money(amount, currency) == text


def test_times_are_relative_with_the_time_in_utc_beside_them() -> None:
    shown = str(formats.when(NOW - timedelta(minutes=3), NOW))
    assert "3\u00a0min ago" in shown
    assert "2026-11-28 11:57:00 UTC" in shown
    assert "in 2\u00a0d" in str(formats.when(NOW + timedelta(days=2), NOW))
    assert formats.duration(90_061) == "1\u00a0d 1\u00a0h"


@pytest.mark.parametrize("depth", [1, 3, 60])
def test_a_payload_can_be_folded_and_its_text_stays_exact(depth: int) -> None:
    inner = '"a": "<b> {\u2028",\n"n": 9007199254740993,\n"empty": {\n},\n"list": [\n1e300\n]'
    text = '"k": {\n' * depth + inner + "\n}" * depth
    shown = str(formats.folded("{\n" + text + "\n}"))
    assert unescape(re.sub(r"</?(details|summary)( open)?>", "", shown)) == "{\n" + text + "\n}\n"
    folds = depth + 2 if depth < 20 else 20
    assert (shown.count("<details open><summary>"), shown.count("</details>")) == (folds, folds)
    assert "<b>" not in shown


def test_a_long_name_is_broken_at_its_parts() -> None:
    assert formats.breaks("customer.sub_1.<b>") == "customer.<wbr>sub_<wbr>1.&lt;b&gt;"


def test_texts_are_escaped() -> None:
    assert "<script>" not in str(formats.link("<script>"))
    assert "<script>" not in str(formats.badge("<script>"))
    assert "<script>" not in str(charts.stacked([{"a": 1}], ["a"], label="<script>"))


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "https://evil.example", "", "/a\nb"])
def test_a_redirect_stays_in_the_console(path: str) -> None:
    assert own_path(path) == "/"
    assert own_path("/events?type=a") == "/events?type=a"


def test_an_invoice_is_in_the_latest_step_that_it_has_reached() -> None:
    card = {
        "amount": 4900,
        "currency": "eur",
        "dunning_steps": {
            "payment-failed": (NOW - timedelta(days=1)).isoformat(),
            "payment-reminder": (NOW + timedelta(days=2)).isoformat(),
        },
    }
    columns = {column["step"]: column["cards"] for column in board([card], DEFAULT_DUNNING, [], NOW)}
    assert columns["payment-failed"] == [card]
    assert columns["payment-reminder"] == []
    assert list(columns)[-2:] == ["recovered", "lost"]
    # What is not known is not shown as none.
    assert [column["step"] for column in board([card], DEFAULT_DUNNING, None, NOW)] == list(columns)[:-2]


def test_each_next_step_has_its_page_for_those_who_may_open_it() -> None:
    found: dict[str, Any] = {name: [] for name in ("dead_letters", "timers", *BY_TABLE)}
    found["event"] = {"outcome": "dead"}
    mail = {"email_key": "a::1", "status": "failed", "last_error": "550"}
    call = {"call_key": "c::1", "status": "failed", "last_error": None}
    failed = found | {"emails": [mail, mail | {"last_error": ERASED}], "stripe_calls": [call]}
    assert [(one["may"], one["url"]) for one in next_steps("evt_1", failed)][:2] == [
        ("resend_mail", "/mails/a%3A%3A1"),
        ("requeue", "/outboxes/stripe_calls?status=failed"),
    ]
    dead = next_steps("evt/1", found | {"dead_letters": [{"status": "open"}]})
    assert [(one["may"], one["url"]) for one in dead] == [
        ("replay", "/dead/rehearsal?id=evt%2F1"),
        ("replay", "/dead/replay?id=evt%2F1"),
    ]
    timer = {"kind": RETRY, "status": "pending", "due_at": NOW, "timer_key": "retry:evt_1"}
    (retry,) = next_steps("evt_1", found | {"event": {"outcome": "waiting"}, "timers": [timer]})
    assert (retry["may"], retry["url"]) == ("fire_timer", "/timers/fire?timer=retry%3Aevt_1")
    assert [one["url"] for one in next_steps("evt_1", found)] == [""]
    assert next_steps("evt_1", found | {"event": {"outcome": "applied"}}) == []


def test_times_that_no_reconciliation_has_covered_are_named() -> None:
    def run(start: int, end: int, **more: Any) -> dict[str, Any]:
        day = NOW - timedelta(days=30)
        given = {
            "account": "",
            "scope": "",
            "window_from": day + timedelta(days=start),
            "cursor": day + timedelta(days=end),
        }
        return given | more

    assert gaps_of([run(5, 6), run(1, 4), run(3, 5)]) == []
    (gap,) = gaps_of(
        [run(7, 8, scope="since"), run(1, 4), run(4, 7, scope="invoice.paid"), run(2, 9, account="acct_1")]
    )
    assert (gap["account"], (gap["end"] - gap["start"]).days) == ("", 3)


def test_currencies_are_never_added_up() -> None:
    month = {"livemode": True, "month": "2026-11", "new": 100, "expansion": 0, "reactivation": 0, "contraction": -20,
             "churn": -20, "paused_churn": -10, "net": 50, "mrr": 150}  # fmt: skip
    series = by_currency([month | {"currency": "eur"}, month | {"currency": "usd"}, month | {"currency": "eur"}])
    assert [(one["currency"], len(one["months"])) for one in series] == [("eur", 2), ("usd", 1)]
    assert series[0]["months"][0]["quick_ratio"] == 2.0
    assert series[0]["months"][0]["churn_rate"] == 30.0


def test_the_calendar_has_every_day() -> None:
    days, kinds = by_day([{"day": NOW.date(), "kind": "erase", "timers": 4}], NOW.date())
    assert len(days) == len(kinds[0]["counts"]) == 14
    assert kinds[0]["counts"][0] == kinds[0]["total"] == 4


def test_a_group_is_selected_by_what_its_letters_share() -> None:
    assert fragment_of({"cause": "no rule for … at n", "error_class": "X"}) == "no rule for"
    assert fragment_of({"cause": "n … n", "error_class": "Unforeseen"}) == "Unforeseen"


def test_a_job_replays_only_what_had_failed_before_it_began() -> None:
    wanted = LetterFilter(types=("invoice.paid",), error="x", frame="a.py:7 in b", since=NOW - timedelta(days=2))
    stored = filter_to_json(wanted) | {"failed_before": NOW.isoformat()}
    found = filter_from_json(stored)
    assert (found.types, found.error, found.frame) == (wanted.types, wanted.error, wanted.frame)
    assert found.since == wanted.since
    assert found.until == NOW
    assert found.statuses == ("open",)


def test_a_timeline_is_in_the_order_of_time() -> None:
    event = {
        "created": NOW, "received_at": NOW + timedelta(seconds=1), "applied_at": NOW + timedelta(seconds=2),
        "source": "stripe", "endpoint": "default", "outcome": "applied", "reason": None, "attempts": 1,
        "on_the_log": "billing.events/4/1021",
    }  # fmt: skip
    found = {"event": event, "timers": [], **dict.fromkeys(BY_TABLE, ()), "dead_letters": []}
    assert [step["what"] for step in timeline_of(found)] == ["created at Stripe", "received", "on the log", "decided"]


def test_passwords_are_compared_by_their_hash() -> None:
    hashed = passwords.hash_of("correct horse battery")
    assert passwords.matches("correct horse battery", hashed)
    assert not passwords.matches("correct horse batterz", hashed)
    assert not passwords.matches("x", "scrypt$1$2")
    assert "horse" not in hashed


def test_charts_say_when_there_is_nothing_to_draw() -> None:
    assert "Nothing to draw" in charts.stacked([], ["a"], label="x")
    assert "Nothing to draw" in charts.line([1.0], label="x")
    assert charts.spark([1.0], label="x").startswith("<svg")
    months = [{"month": "2026-10", "a": 5, "b": -2}, {"month": "2026-11", "a": 1, "b": 0}]
    drawn = charts.up_down(months, ["a"], ["b"], label="x", name="month", open_name="2026-11")
    assert "style=" not in drawn
    assert ">Oct 2026</text>" in drawn
    assert ">Nov</text>" in drawn
    assert drawn.count('class="hatch"') == 1


def test_a_time_that_is_years_away_is_in_years() -> None:
    assert formats.relative(NOW + timedelta(days=729), NOW) == "in 729\u00a0d"
    assert formats.relative(NOW + timedelta(days=2925), NOW) == "in 8\u00a0y"


def test_a_figure_is_an_amount_without_its_currency() -> None:
    assert [formats.figure(-245_200, "eur"), formats.figure(1000, "jpy")] == ["-2,452.00", "1,000"]
    assert formats.figure(None, "eur") == formats.NONE


def test_an_amount_has_the_currency_of_its_row_or_of_the_event() -> None:
    changed = {"amount": [None, 4900], "currency": [None, "eur"]}
    assert formats.value(4900, "amount", changed, "usd") == "EUR\u00a049.00"
    assert formats.value(4900, "amount", {"amount": [100, 4900]}, "jpy") == "JPY\u00a04,900"
    assert formats.value(4900, "amount", {"amount": [100, 4900]}) == "4,900 (minor units)"
    assert formats.value(2, "attempt_count", {}) == "2"
    assert formats.value(1_795_681_398, "owed.at", {}) == "2026-11-26 08:23:18 UTC"
    assert formats.value("2026-11-28T12:00:00+00:00", "paid_at", {}) == "2026-11-28 12:00:00 UTC"


def test_each_customer_of_a_day_is_named_once() -> None:
    day, next_day = NOW.date(), NOW.date() + timedelta(days=1)
    timers = [
        {"day": on, "account": "", "customer_id": who, "kind": kind}
        for on, who, kind in ((day, "a", "win-back"), (day, "a", "trial-reminder"), (day, "b", "win-back"),
                              (next_day, "a", "win-back"))
    ]  # fmt: skip
    found = mails_by_day(timers)
    assert [(row["day"], row["mails"], [one["customer_id"] for one in row["customers"]]) for row in found] == [
        (day, 3, ["a", "b"]),
        (next_day, 1, ["a"]),
    ]


def test_who_may_sign_in_is_shown_without_secrets() -> None:
    console = ConsoleConfig(
        users={"ada": ConsoleUser(password=SecretStr(passwords.hash_of("correct horse")), role=Role.ADMIN)},
        proxy=ConsoleProxy(networks=("10.0.0.0/8",), users={"grace": Role.VIEWER}),
        oidc=ConsoleOidc(issuer="https://login.example.com", client_id="c", groups={"ops": Role.OPERATOR}),
    )
    shown = people_shown(Config(console=console))
    assert [(one["who"], one["role"]) for one in shown] == [
        ("ada", "admin"),
        ("grace", "viewer"),
        ("group ops", "operator"),
    ]
    assert "scrypt" not in str(shown)
