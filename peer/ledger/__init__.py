"""Ledger on disk: the store that makes entries durable, and what checks it."""
