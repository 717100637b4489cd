"""One HTML page about a ledger: nothing in it runs, nothing in it asks a network."""
