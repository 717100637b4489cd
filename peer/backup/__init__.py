"""One peer's home in one file, and back."""
