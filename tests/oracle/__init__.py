"""An independent model of the result. Tests compare the store with it."""
