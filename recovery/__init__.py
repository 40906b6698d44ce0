"""Engines for repair: replay, reconcile, rebuild. They return results and never print."""
