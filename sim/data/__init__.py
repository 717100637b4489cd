"""Data of simulated peers: pools of examples, and how they are shared out."""
