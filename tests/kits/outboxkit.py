"""One order for each outbox of the registry, for tests that loop over all outboxes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from schemas.effects import CallStripe, Order, OrderExport, QueueEmail, QueueNotification
from sinks.postgres.outboxes import OUTBOXES, Origin, Outbox

SECRET = "jane.erasable@example.com"
"""Personal data that each sample contains, where its outbox can hold any."""
AT = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)

_ORDERS: dict[type[Any], Order] = {
    QueueEmail: QueueEmail(
        key="sample:mail",
        template="plan-changed",
        account="",
        customer_id="cus_1",
        recipient=SECRET,
        data={"name": SECRET},
    ),
    CallStripe: CallStripe(
        key="sample:call",
        method="POST",
        path="/v1/customers/cus_1",
        account="",
        customer_id="cus_1",
        params={"email": SECRET},
    ),
    OrderExport: OrderExport(
        key="sample:export", account="", customer_id="cus_1", keep_until=datetime(2099, 1, 1, tzinfo=UTC)
    ),
    QueueNotification: QueueNotification(
        key="sample:notification",
        destination="app",
        message_id="msg_1",
        type="access.changed",
        account="",
        customer_id="cus_1",
        occurred_at=AT,
        data={"user_id": SECRET},
    ),
}


def sample_row(outbox: Outbox, event_id: str = "evt_1") -> Any:
    """A row of this outbox for customer `cus_1`. A new outbox needs a sample order here."""
    assert outbox.effect in _ORDERS, f"add a sample order for the outbox {outbox.name} to tests/kits/outboxkit.py"
    return outbox.to_row(_ORDERS[outbox.effect], Origin(event_id, livemode=True), AT)


def sample_rows(event_id: str = "evt_1") -> list[Any]:
    return [sample_row(outbox, event_id) for outbox in OUTBOXES]
