"""Measures this machine: the runtimes side by side, against the processor's limit, and the daemon under load."""

from __future__ import annotations

from edge.errors import EcgEdgeError


class BenchError(EcgEdgeError):
    """A part of the benchmark that could not run, or died."""
