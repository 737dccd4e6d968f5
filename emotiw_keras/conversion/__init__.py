"""Arrays of foreign files to networks of ours: layout change, total assignment, parity gate."""
