"""Network: authenticated frames between members over libp2p, and the same in memory."""
