"""Deterministic world: the same node under virtual time."""
