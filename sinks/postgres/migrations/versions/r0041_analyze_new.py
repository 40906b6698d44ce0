"""A function by which the worker gives new tables their first statistics, which autovacuum does a minute later.

sinks/postgres/new_tables.py says why. ANALYZE needs the owner's rights, and the worker has its role's only: so the
function has those of its owner, as whom `billing migrate` runs. Everybody may call it, since it analyzes only small
tables of this schema, and each of them once.
"""

from __future__ import annotations

from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None

# A table is new while its number of pages is unknown. Of two pages or more, because the number of accounts is taken
# for a share of the rows if there are few. Up to 8 MB, so that a big table that was restored without statistics, where
# ANALYZE takes seconds, is left to autovacuum. If a table is locked, autovacuum analyzes it now, or a migration changes
# it: the next call finds out.
ANALYZE_NEW = """
CREATE OR REPLACE FUNCTION billing.analyze_new() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    new regclass;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('billing.analyze_new')) THEN
        RETURN;
    END IF;
    FOR new IN
        SELECT oid FROM pg_class WHERE relnamespace = 'billing'::regnamespace AND relkind = 'r' AND relpages = 0
        AND pg_relation_size(oid) BETWEEN 16384 AND 8388608 AND pg_has_role(relowner, 'USAGE')
    LOOP
        BEGIN
            EXECUTE format('ANALYZE %s', new);
        EXCEPTION WHEN lock_not_available THEN
            RAISE DEBUG '% is locked', new;
        END;
    END LOOP;
END
$$
"""


def upgrade() -> None:
    op.execute(ANALYZE_NEW)


def downgrade() -> None:
    op.execute("DROP FUNCTION IF EXISTS billing.analyze_new()")
