"""The figures of random lives agree with their tables, whatever the order of the events (E2)."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from schemas.state import Payment, Subscription
from tests.kits.lifekit import CONFIG, Course, is_sent, lived
from tests.oracle.figures import figure_faults
from tests.unit.oracle.test_stripe_lives import courses


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=(HealthCheck.too_slow,))
@given(courses(("ordered", "shuffled")))
def test_E2_the_figures_of_lives_agree_with_the_tables(course: Course) -> None:
    stripe, world = lived(course)
    events = [event for event in course.deliver(stripe) if is_sent(event, course.shape)]
    assert figure_faults(events, world.rows(Subscription), world.rows(Payment), CONFIG) == []
