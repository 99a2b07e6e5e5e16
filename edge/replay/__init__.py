"""Recordings and simulated patients played as live devices. For trying things out: the daemon knows nothing of it."""
