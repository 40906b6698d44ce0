"""One module per subject. A module added here is found by `tests/field/harness.py`."""
