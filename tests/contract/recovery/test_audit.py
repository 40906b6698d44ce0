"""`billing audit`: the books agree, or each difference is found, named and repaired (D11)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from tests.kits.auditkit import AuditKit, open_audit


@pytest.fixture
async def kit(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[AuditKit]:
    async with open_audit(kafka_bootstrap, database, topic_prefix) as opened:
        await opened.apply(event.render() for event in opened.company.stripe.events())
        yield opened


async def test_D11_the_books_of_a_simulated_company_agree(kit: AuditKit) -> None:
    report = await kit.audit()
    print(report)
    assert report.agrees, report.differences
    assert report.counts["events"] > 50
    assert sum(total.stripe for total in report.totals if total.what == "paid") > 0
