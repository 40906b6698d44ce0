"""Versions of the access view and of notifications that grow whatever happens to the database (behaviours.md B8, F3).

    what changes                             before                      now
    an organization's access, a new row      counted from 0              counted, and at least the time in milliseconds
    the user that a customer is linked to    not counted                 counted
    notifications about no customer          the time in milliseconds    the same, counted, as those of a customer

A database that was rebuilt, or restored to an earlier time, has counted fewer changes. Its versions went back, and a
reader that keeps the newest did not take its next changes. Two notifications of a guest's purchase that one transaction
queued could have one version.
"""

from __future__ import annotations

from alembic import op

revision = "0044"
down_revision = "0043"
branch_labels = None
depends_on = None

# ruff: noqa: S608 - built from constants only
_NOW = "floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

_COUNT_ACCESS = f"""
CREATE OR REPLACE FUNCTION billing.count_access() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.access_version := {_NOW};
    IF TG_OP = 'UPDATE' THEN
        NEW.access_version := greatest(OLD.access_version + 1, NEW.access_version);
    END IF;
    RETURN NEW;
END
$$
"""

_COUNT_NEW = """
CREATE OR REPLACE TRIGGER count_new_access BEFORE INSERT ON billing.organizations FOR EACH ROW
EXECUTE FUNCTION billing.count_access()
"""

# The row of the view has the customer's user. The organization has the same customer, so the same transaction changes
# both, and no other one waits for it.
_COUNT_USER = f"""
CREATE OR REPLACE FUNCTION billing.count_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE billing.organizations SET access_version = greatest(access_version + 1, {_NOW})
    WHERE account = NEW.account AND customer_id = NEW.customer_id;
    RETURN NULL;
END
$$
"""

_COUNT_CHANGED_USER = """
CREATE OR REPLACE TRIGGER count_user AFTER UPDATE ON billing.customers FOR EACH ROW
WHEN (OLD.user_id IS DISTINCT FROM NEW.user_id) EXECUTE FUNCTION billing.count_user()
"""

_COUNT_NEW_USER = """
CREATE OR REPLACE TRIGGER count_new_user AFTER INSERT ON billing.customers FOR EACH ROW
WHEN (NEW.user_id IS NOT NULL) EXECUTE FUNCTION billing.count_user()
"""

# Two statements: an index does not serve IS NOT DISTINCT FROM.
_NUMBER = f"""
CREATE OR REPLACE FUNCTION billing.number_notification() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT n.version INTO NEW.version FROM billing.notifications n
    WHERE n.event_id = NEW.event_id AND n.message_id = NEW.message_id LIMIT 1;
    IF NEW.version IS NOT NULL THEN
        RETURN NEW;
    END IF;
    IF NEW.customer_id IS NULL THEN
        SELECT greatest(max(n.version) + 1, {_NOW}) INTO NEW.version FROM billing.notifications n
        WHERE n.account = NEW.account AND n.customer_id IS NULL;
    ELSE
        SELECT greatest(max(n.version) + 1, {_NOW}) INTO NEW.version FROM billing.notifications n
        WHERE n.account = NEW.account AND n.customer_id = NEW.customer_id;
    END IF;
    RETURN NEW;
END
$$
"""


def upgrade() -> None:
    # Each in a transaction of its own: while one table is locked, no worker waits for the lock of another.
    with op.get_context().autocommit_block():
        for statement in (_COUNT_ACCESS, _COUNT_NEW, _COUNT_USER, _COUNT_CHANGED_USER, _COUNT_NEW_USER, _NUMBER):
            op.execute(statement)
