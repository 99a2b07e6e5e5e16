"""The demo: a broker, the daemon, a few devices and a live view, in one command."""
