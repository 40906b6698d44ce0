"""Spans of log lines: one trace per event in all processes, and no field that is not listed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from ops.runtime.start import open_traces
from ops.runtime.traces import ATTRIBUTES, Traces
from schemas.settings import InvalidSettings, Settings
from schemas.trace_context import new_traceparent, span_id_of, trace_id_of
from tests.paths import ROOT


def _spans_of(
    process: str, *lines: dict[str, object], method: str = "info", ratio: float = 1.0
) -> InMemorySpanExporter:
    kept = InMemorySpanExporter()
    traces = Traces(process, SimpleSpanProcessor(kept), ratio=ratio)
    for line in lines:
        assert traces(None, method, dict(line)) == line, "the line stays as it is"
    return kept


def test_gateway_worker_and_dispatcher_write_one_trace() -> None:
    header = new_traceparent("evt_1")
    facts = {"event_id": "evt_1", "traceparent": header}
    (received,) = _spans_of("gateway", facts | {"action": "webhook.accepted", "ms": 12.5}).get_finished_spans()
    (applied,) = _spans_of("worker", facts | {"action": "event.processed", "batch_ms": 3.0}).get_finished_spans()
    (sent,) = _spans_of("dispatcher", {"event_id": "evt_1", "action": "email.sent", "ms": 80}).get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in (received, applied, sent)} == {trace_id_of("evt_1")}
    assert f"{received.context.span_id:016x}" == span_id_of(header, "evt_1")
    assert received.parent is None
    assert applied.parent is not None
    assert applied.parent.span_id == received.context.span_id
    assert applied.context.span_id != received.context.span_id
    assert sent.parent is None
    assert received.end_time is not None
    assert received.start_time is not None
    assert received.end_time - received.start_time == 12_500_000


def test_only_listed_fields_leave() -> None:
    personal = {"customer": "cus_1", "account": "acct_1", "peer": "10.0.0.1", "key": "m:in_1", "reason": "a@b.example"}
    line = {"event_id": "evt_1", "action": "email.sent", "ms": 1, "template": "win-back", **personal}
    (span,) = _spans_of("dispatcher", line).get_finished_spans()
    assert span.attributes == {"billing.event_id": "evt_1", "billing.template": "win-back"}
    assert not personal.keys() & ATTRIBUTES.keys()


def test_lines_that_are_no_work_on_an_event_are_no_spans() -> None:
    lines: tuple[dict[str, object], ...] = ({"event_id": "evt_1"}, {"ms": 3.0}, {"event_id": "", "ms": 3.0})
    assert not _spans_of("worker", *lines).get_finished_spans()


def test_what_failed_is_an_error() -> None:
    (span,) = _spans_of("worker", {"event_id": "evt_1", "batch_ms": 1}, method="warning").get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR


def test_each_process_keeps_the_same_share_of_events() -> None:
    lines: list[dict[str, object]] = [{"event_id": f"evt_{number}", "ms": 1.0} for number in range(400)]
    kept = [
        {str(span.attributes) for span in _spans_of(process, *lines, ratio=0.25).get_finished_spans()}
        for process in ("gateway", "worker")
    ]
    assert kept[0] == kept[1]
    assert 60 < len(kept[0]) < 140
    assert not _spans_of("worker", *lines, ratio=0).get_finished_spans()


@pytest.mark.parametrize(
    "header",
    ["", "00-1-2-01", None, f"00-{trace_id_of('evt_2')}-{'1' * 16}-01", f"00-{trace_id_of('evt_1')}-{'0' * 16}-01"],
)
def test_a_header_of_another_form_or_event_is_no_parent(header: str | None) -> None:
    assert span_id_of(header, "evt_1") is None
    (span,) = _spans_of("worker", {"event_id": "evt_1", "traceparent": header, "batch_ms": 1}).get_finished_spans()
    assert span.parent is None


def test_without_the_setting_nothing_is_made_or_imported() -> None:
    settings = Settings.model_construct(traces_url="")
    assert open_traces(settings, "gateway") is None
    code = "import sys, ops.processes.gateway, ops.runtime.start; print(*(m for m in sys.modules if 'opentel' in m))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_a_level_that_hides_the_lines_is_refused() -> None:
    settings = Settings.model_construct(traces_url="http://127.0.0.1:4318/v1/traces", log_level="warning")
    with pytest.raises(InvalidSettings, match="BILLING_LOG_LEVEL"):
        open_traces(settings, "worker")
    assert open_traces(settings, "status") is None  # only processes trace
