"""Scenarios: TOML in, a run directory out."""
