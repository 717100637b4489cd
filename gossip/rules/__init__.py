"""Merge rules: pure functions on stacks of params."""
