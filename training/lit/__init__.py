"""Locked-image tuning: stored image features on one side, a text tower that learns to read them on the other."""
