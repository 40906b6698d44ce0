"""Shadow mode for operators: what was held, and where the state differs from the old system's (behaviours.md F2)."""
