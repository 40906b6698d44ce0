"""Computes MRR movements, payment metrics and recovery rates from events, in its own consumer group."""
