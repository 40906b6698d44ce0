"""Compares with Stripe: finds events that never arrived and objects that differ."""
