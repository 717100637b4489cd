"""Learning: a task becomes params, params become private deltas, deltas become merges. The torch side of the core."""
