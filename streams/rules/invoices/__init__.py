"""Rules of the stream `invoices` and the dunning steps (behaviours.md C1 to C5)."""
