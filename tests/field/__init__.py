"""Billing cases from the field: the events of one customer each, and what must be true after them.

`cases/` has the events, one per line, in the order of arrival. Times are as of `harness.NOW`. `….stripe.json` is what
Stripe's API answers. Modules in `expected/` contain the expectations, each a function with the decorator `@case`.
"""
