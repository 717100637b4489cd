"""The journal of a daemon: all that its node was told, so that another node can be told the same."""
