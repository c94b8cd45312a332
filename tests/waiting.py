"""What tests that wait for servers, browsers and other processes share."""

PATIENCE_S = 120
"""Enough for a step of a machine that is busy with other work, and below the limit of a whole test."""


def has_content(path):
    """Whether a file that another process writes has bytes by now; one that was moved since it was listed has not."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
