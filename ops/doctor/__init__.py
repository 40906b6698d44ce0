"""The checks of `billing doctor`: whether everything that a system needs to go live is there (behaviours.md F8)."""
