"""The archive of payloads: sealed in files, under keys that are in the ledger (behaviours.md B6)."""
