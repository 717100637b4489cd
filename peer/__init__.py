"""IO layer: the daemon. The only place with a clock, a socket, a disk, a log line."""
