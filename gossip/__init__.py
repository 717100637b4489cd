"""Core layer: what a peer does, as pure functions and one state machine. No IO, clock or global randomness."""
