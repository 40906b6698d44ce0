"""Further billing lives: what Stripe sends, and what is right afterwards.

Each module has a function `lives(shape)`. tests/unit/test_further_lives.py plays each life in many orders, with
repeats, with and without a Stripe key.
"""
