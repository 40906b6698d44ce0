"""The owner of the embedded PostgreSQL's database: what it may, and how a database gets it."""

from __future__ import annotations

OWNER = "billing_local"

STATEMENTS = (
    f"""DO $$ BEGIN IF to_regrole('{OWNER}') IS NULL THEN
    CREATE ROLE {OWNER} LOGIN CREATEDB CREATEROLE; END IF; END $$""",
    f"""DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO {OWNER}', current_database()); END $$""",
    # The roles of an earlier version, which `billing migrate` keeps up to date
    f"""DO $$ DECLARE one text; BEGIN
    FOR one IN SELECT rolname FROM pg_roles
        WHERE rolname LIKE 'billing\\_%' AND rolname <> '{OWNER}' AND NOT rolsuper LOOP
    EXECUTE format('GRANT %I TO {OWNER} WITH ADMIN OPTION', one); END LOOP; END $$""",  # noqa: S608  # only constant names
)
"""Without its password. `billing migrate` makes roles, and `billing rebuild` needs another database."""

_OURS = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"

TRANSFER = f"""DO $$ DECLARE one text; BEGIN
    FOR one IN SELECT format('SCHEMA %I', n.nspname) FROM pg_namespace n WHERE {_OURS} AND n.nspname <> 'public'
        UNION ALL SELECT format('TABLE %I.%I', n.nspname, c.relname) FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_OURS} AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass
            AND (d.deptype = 'e' OR (c.relkind = 'S' AND d.deptype IN ('a', 'i'))))
        UNION ALL SELECT format('ROUTINE %s', p.oid::regprocedure) FROM pg_proc p
        JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {_OURS}
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
        UNION ALL SELECT format('TYPE %I.%I', n.nspname, t.typname) FROM pg_type t
        JOIN pg_namespace n ON n.oid = t.typnamespace WHERE {_OURS} AND t.typtype IN ('e', 'd')
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = t.oid AND d.deptype = 'e')
    LOOP EXECUTE format('ALTER %s OWNER TO {OWNER}', one); END LOOP; END $$"""  # noqa: S608  # only constant names
"""Gives the owner what is in the database. REASSIGN OWNED does not take from the first superuser."""
