"""The backfills of revision 0012: what Stripe said last of each subscription, and the access of each organization.

Stored subscriptions get the new columns from the event that their version names, if the ledger has its payload, without
what earlier versions concluded from invoices. An erased payload leaves the row's own values.
"""

from __future__ import annotations

_ITEMS = """
(SELECT jsonb_agg(jsonb_build_object(
    'id', i.item->>'id',
    'price', coalesce(p.price->>'id', i.item->>'price', i.item->>'plan'),
    'name', coalesce(p.price->>'nickname', p.price->>'name'),
    'product', coalesce(p.price#>>'{product,id}', p.price->>'product'),
    'quantity', i.item->'quantity',
    'unit_amount', CASE WHEN coalesce(o.object->>'currency', p.price->>'currency') = p.price->>'currency'
        THEN coalesce(nullif(p.price->'unit_amount', 'null'), p.price->'amount') END,
    'currency', coalesce(o.object->>'currency', p.price->>'currency'),
    'usage_type', coalesce(p.price#>>'{recurring,usage_type}', p.price->>'usage_type'),
    'interval', coalesce(p.price#>>'{recurring,interval}', p.price->>'interval'),
    'interval_count', coalesce(p.price#>'{recurring,interval_count}', p.price->'interval_count'),
    'divide_by', p.price#>'{transform_quantity,divide_by}',
    'round', p.price#>>'{transform_quantity,round}') ORDER BY i.at)
 FROM jsonb_array_elements(CASE jsonb_typeof(o.object#>'{items,data}')
        WHEN 'array' THEN o.object#>'{items,data}' ELSE '[]' END) WITH ORDINALITY AS i (item, at)
 CROSS JOIN LATERAL (SELECT CASE WHEN jsonb_typeof(i.item->'price') = 'object' THEN i.item->'price'
        WHEN jsonb_typeof(i.item->'plan') = 'object' THEN i.item->'plan' ELSE '{}' END) AS p (price))
"""

_STORED_ITEM = """
CASE WHEN s.price_id IS NULL THEN '[]' ELSE jsonb_build_array(jsonb_build_object(
    'id', NULL, 'price', s.price_id, 'name', NULL, 'product', NULL, 'quantity', s.quantity,
    'unit_amount', s.unit_amount, 'currency', s.currency, 'usage_type', NULL, 'interval', s.interval,
    'interval_count', s.interval_count, 'divide_by', NULL, 'round', NULL)) END
"""

# The failed invoices that are owed. Payments keep no `billing_reason`: null counts as the invoice of a period.
_INVOICES = """
coalesce((SELECT jsonb_object_agg(p.invoice_id, jsonb_build_object(
    'reason', NULL, 'created', extract(epoch FROM p.first_failed_at)::bigint, 'failed', p.version,
    'first', to_char(p.first_failed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'),
    'last', to_char(p.first_failed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'),
    'attempts', p.attempt_count, 'due', NULL))
 FROM billing.payments p
 WHERE p.account = s.account AND p.customer_id = s.customer_id AND p.subscription_id = s.subscription_id
   AND p.invoice_id IS NOT NULL AND p.status = 'failed' AND p.first_failed_at IS NOT NULL
   AND (p.closed_at IS NULL OR p.lost_at < p.closed_at)), '{}')
"""

SUBSCRIPTIONS_WORK = f"""
UPDATE billing.subscriptions s SET
    stripe_status = CASE
        WHEN s.status IN ('canceled', 'incomplete_expired') THEN s.status
        ELSE coalesce(f.object->>'status', s.status) END,
    status = CASE
        WHEN s.status IN ('canceled', 'incomplete_expired') THEN s.status
        ELSE coalesce(f.object->>'status', s.status) END,
    status_version = s.version,
    items = coalesce(CASE WHEN jsonb_path_exists(f.items, '$[*].price ? (@ != null)') THEN f.items END, f.stored),
    items_version = s.version,
    latest_invoice = coalesce(f.object#>>'{{latest_invoice,id}}', f.object->>'latest_invoice'),
    pending_update = coalesce(jsonb_typeof(f.object->'pending_update') = 'object', false),
    cancel_at = to_timestamp((f.object->>'cancel_at')::bigint),
    cancellation_reason = f.object#>>'{{cancellation_details,reason}}',
    pause_collection = f.object#>>'{{pause_collection,behavior}}',
    resumes_at = to_timestamp((f.object#>>'{{pause_collection,resumes_at}}')::bigint),
    invoices = f.invoices,
    failed_invoice = (SELECT key FROM jsonb_each(f.invoices) ORDER BY value->'created' DESC, key DESC LIMIT 1),
    payment_failed_at = (SELECT (value->>'first')::timestamptz FROM jsonb_each(f.invoices)
        ORDER BY value->'created' DESC, key DESC LIMIT 1),
    payment_attempts = coalesce((SELECT (value->>'attempts')::integer FROM jsonb_each(f.invoices)
        ORDER BY value->'created' DESC, key DESC LIMIT 1), 0)
FROM (
    SELECT s.account, s.subscription_id, o.object, {_ITEMS} AS items, {_STORED_ITEM} AS stored,
        {_INVOICES} || s.invoices AS invoices
    FROM batch
    JOIN billing.subscriptions s USING (account, subscription_id)
    LEFT JOIN billing.events e ON e.event_id = regexp_replace(s.version, '^[^:]*:[^:]*:[^:]*:', '')
    CROSS JOIN LATERAL (SELECT e.payload#>'{{data,object}}') AS o (object)
) f WHERE f.account = s.account AND f.subscription_id = s.subscription_id
"""  # noqa: S608  # only constants

# The exact plan, limits and times follow with the customer's next event, or at once with `billing plans apply`.
ORGANIZATIONS_WORK = """
UPDATE billing.organizations o SET
    has_access = b.deleted_at IS NULL AND coalesce(b.status IN ('active', 'trialing', 'past_due'), false),
    access_reason = CASE WHEN b.deleted_at IS NOT NULL THEN 'customer_deleted'
        WHEN b.status = 'active' AND b.pause_collection IS NOT NULL THEN 'collection_paused'
        ELSE coalesce(b.status, 'canceled') END,
    access_changes_at = b.cancel_at,
    plan = CASE WHEN b.status IN ('unpaid', 'paused') THEN 'free' ELSE o.plan END,
    limits = CASE WHEN b.status IN ('unpaid', 'paused')
        THEN coalesce((SELECT f.limits FROM billing.organizations f WHERE f.plan = 'free' LIMIT 1), '{}')
        ELSE o.limits END,
    next_billing_at = CASE WHEN b.status IN ('unpaid', 'paused') OR b.pause_collection IS NOT NULL
        OR b.cancel_at <= o.next_billing_at THEN NULL ELSE o.next_billing_at END,
    status = CASE WHEN o.status <> 'payment_failed' OR EXISTS (
            SELECT FROM billing.subscriptions s WHERE s.account = o.account AND s.customer_id = o.customer_id
            AND s.status IN ('past_due', 'unpaid')) THEN o.status
        WHEN b.status = 'trialing' THEN 'trialing' WHEN b.status = 'active' THEN 'active'
        WHEN b.status = 'paused' THEN 'paused' WHEN b.status = 'incomplete' THEN 'incomplete' ELSE 'cancelled' END
FROM (
    SELECT DISTINCT ON (o.organization_id) o.organization_id, c.deleted_at, s.status, s.cancel_at, s.pause_collection
    FROM batch
    JOIN billing.organizations o USING (organization_id)
    LEFT JOIN billing.customers c ON c.account = o.account AND c.customer_id = o.customer_id
    LEFT JOIN billing.subscriptions s ON s.account = o.account AND s.customer_id = o.customer_id
    ORDER BY o.organization_id, array_position(
        ARRAY['active', 'trialing', 'past_due', 'unpaid', 'paused', 'incomplete', 'canceled', 'incomplete_expired'],
        s.status), s.subscription_id
) b WHERE b.organization_id = o.organization_id
"""
