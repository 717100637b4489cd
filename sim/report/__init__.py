"""What came of a run on one page that holds everything it shows."""
