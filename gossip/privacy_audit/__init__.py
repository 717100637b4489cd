"""Attacks on the own training, to see what it lets out: lower bounds beside the accountant's upper ones."""
