"""The story that `make demo` plays and checks."""
