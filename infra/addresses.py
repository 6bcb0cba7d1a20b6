"""Addresses as they may be shown: in logs, hints, fingerprints."""

import re


def without_password(text: str) -> str:
    """The text with `user:password@` taken out of every URI in it."""
    return re.sub(r"//[^/@\s]+@", "//", text)
