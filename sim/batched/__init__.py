"""The batched engine: all peers' params side by side, one tensor per layer, a whole round in a few large steps."""
