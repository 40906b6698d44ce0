"""Alembic revisions that create the schemas. They are written by hand and must not be edited once released.

A test compares their result with the package `tables`.
"""
