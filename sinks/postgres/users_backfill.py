"""Revision 0015: gives each user the account of the customers that are linked to it.

Before, a user id was one row for all accounts. Its address was that of the last event of any account.
"""

from __future__ import annotations

ADD_WORK = """
INSERT INTO billing.users (account, user_id, email)
SELECT o.account, m.user_id, min(o.billing_email) FROM batch JOIN billing.organizations o USING (organization_id)
JOIN billing.memberships m USING (organization_id) GROUP BY o.account, m.user_id ON CONFLICT DO NOTHING
"""
"""Adds the users of connected accounts. The next event of a customer also sets whose address it is."""

RIGHT_WORK = """
UPDATE billing.users AS u SET email = (
    SELECT min(o.billing_email) FROM billing.memberships m JOIN billing.organizations o USING (organization_id)
    WHERE m.user_id = u.user_id AND o.account = ''
) FROM batch WHERE u.account = batch.account AND u.user_id = batch.user_id
"""
"""The platform's row of a user id that connected accounts use too: no address of theirs."""

SHARED = """
t.account = '' AND t.address_of IS NULL AND EXISTS (
    SELECT FROM billing.memberships m JOIN billing.organizations o USING (organization_id)
    WHERE m.user_id = t.user_id AND o.account <> '')
"""
