"""Ground layer: bytes in, bytes out. No torch, clock, randomness, files, sockets or logging."""
