"""Beside the flow: how fast and how dear it is, measured side by side with the limits of its parts."""
