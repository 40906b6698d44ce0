"""Imports the customers of an existing Stripe account."""
