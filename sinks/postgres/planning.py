"""How Postgres plans the statements of long-running processes, which find rows only by key and index.

With its defaults, the planner scans new tables completely: it keeps a plan that was made for an empty table, and before
the first ANALYZE it assumes that a batch's 500 keys match most of the rows.
"""

from __future__ import annotations

_BY_INDEX = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "jit": "off"}

PLANNING = _BY_INDEX | {"plan_cache_mode": "force_custom_plan"}
"""Settings of a session with few large statements: each is planned for its values."""

KEPT_PLANS = _BY_INDEX | {"plan_cache_mode": "force_generic_plan", "enable_bitmapscan": "off"}
"""Settings of a session with many small statements: their plans are kept, since planning costs more than running them.

Without bitmap scans, so that the oldest due rows are read in the order of their index, and not all due rows.
"""

AS_ELSEWHERE = "; ".join(f"SET LOCAL {name} TO DEFAULT" for name in KEPT_PLANS)
"""Plans the statements of one transaction as in a session without these settings: for large queries."""

KEPT_S = 5.0
"""Seconds after which kept plans are made again, for the tables' present sizes.

Postgres makes a plan for a small table that reads a whole index, because that costs no more than a lookup. It would
keep this plan until the first ANALYZE, a minute or more later.
"""
