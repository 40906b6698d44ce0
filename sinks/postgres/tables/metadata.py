"""The schema `billing`, to which each table of this package belongs."""

from __future__ import annotations

from sqlalchemy import MetaData

metadata = MetaData(schema="billing")
