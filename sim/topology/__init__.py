"""Who talks to whom, round by round: graphs, mixing weights, what they promise, and how they look."""
