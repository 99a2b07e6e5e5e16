"""Measures this machine: the runtimes side by side, against the processor's limit, and the daemon under load."""
