"""Brings a changed config of plans to existing customers."""
