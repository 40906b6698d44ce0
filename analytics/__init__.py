"""Figures: a consumer group of its own that turns events into MRR movements, payment metrics and recovery rates."""
