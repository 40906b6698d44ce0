"""The table and the JSON of the benchmarks say which goals are reached, and which were not measured."""

from __future__ import annotations

from bench.figures import Figures, Goal
from bench.goals import GOALS


def test_a_goal_is_a_limit_of_a_figure_or_of_a_ratio() -> None:
    figures = Figures(
        goals=(
            Goal("twice as fast", "ours", at_least=2.0, of="theirs"),
            Goal("cheap", "cost", at_most=0.5),
            Goal("quick", "time", at_most=3),
            Goal("unknown", "nothing", at_most=3),
        )
    )
    for ours, theirs in ((30.0, 10.0), (21.0, 10.0), (10.0, 10.0)):
        figures.add("ours", ours, "events/s")
        figures.add("theirs", theirs, "events/s")
    figures.add("cost", 0.6, "ms")
    figures.add("time", 3.0, "s")
    found = {goal["name"]: (goal["is"], goal["reached"]) for goal in figures.document()["goals"]}
    assert found == {
        "twice as fast": (2.1, True),  # the median of the ratios of the rounds
        "cheap": (0.6, False),
        "quick": (3.0, True),
        "unknown": (None, None),
    }
    assert "| twice as fast | 2.1 | ≥ 2 | yes |" in figures.table()
    assert "| cheap | 0.6 | ≤ 0.5 | no |" in figures.table()
    assert "| unknown | not measured | ≤ 3 |  |" in figures.table()


def test_each_goal_has_one_limit_and_its_own_name() -> None:
    assert len({goal.name for goal in GOALS}) == len(GOALS)
    assert all((goal.at_least is None) != (goal.at_most is None) for goal in GOALS)
