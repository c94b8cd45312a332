"""How long tests wait for servers, browsers and other processes before they fail."""

PATIENCE_S = 120
"""Enough for a step of a machine that is busy with other work, and below the limit of a whole test."""
