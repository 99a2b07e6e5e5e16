"""The daemon's Prometheus metrics. Labels come from short fixed lists, never from a device's name."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
PREFIX = "ecg_edge"
MAX_LABEL_VALUES = 64
OTHER = "other"

HOP_LATENCY_BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
INFERENCE_BUCKETS_MS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """All metrics of one daemon in a registry of their own, so that several daemons fit into one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        self.chunks = self._tally("chunks", "Wave messages received.")
        self.samples = self._tally("samples", "Samples per lead taken from wave messages.")
        self.payload_errors = BoundedCounter(self._counter("payload_errors", "Refused payloads.", "reason"))
        self.duplicates = self._counter("duplicates", "Chunks that had been seen before.")
        self.gaps = self._counter("gaps", "Gaps in streams, by what was done: bridged or lost.", "outcome")
        self.resets = self._counter("resets", "Starts afresh of a stream's carried state.", "reason")
        self.dropped_samples = self._counter("dropped_samples", "Samples per lead dropped under overload.")
        self.refused_streams = self._counter("refused_streams", "Chunks refused because max_streams was reached.")
        self.scores = self._counter("scores", "Hops scored, by state: ready or warming.", "state")
        self.alerts = BoundedCounter(self._counter("alerts", "Alert changes.", "code", "state"))
        self.refused_alerts = BoundedCounter(
            self._counter("refused_alerts", "Attempts to publish an alert that the broker refused.", "topics", "reason")
        )
        self.dropped_alerts = self._counter(
            "dropped_alerts", "Alert messages dropped undelivered: the store, or in its place the memory, was full."
        )
        self.suppressed_alerts = self._counter("suppressed_alerts", "Raises held back by a rate limit.")
        self.reconnects = self._counter("reconnects", "Connections to the broker after the first.")
        self.snapshots = self._counter("snapshots", "Snapshots of streams' state written.")

        self.streams = self._gauge("streams", "Streams followed now.")
        self.connected = self._gauge("connected", "1 while connected to the broker.")
        self.outbox_pending = self._gauge("outbox_pending", "Alert changes the broker has not acknowledged.")
        self.unreadable_alerts = self._gauge(
            "unreadable_alerts", "Stored alert messages that were found damaged and set aside."
        )
        self.lag_seconds = self._gauge("lag_seconds", "Age of the oldest samples that wait to be scored.")

        self.state_rms_ratio = self._gauge(
            "state_rms_ratio",
            "Size of a carried tensor in the stream where it is largest, as a multiple of the training folds' 99th "
            "percentile.",
            "tensor",
        )
        self.state_limit_ratio = self._gauge(
            "state_limit_ratio", "From which such a multiple on a stream's state is reset.", "tensor"
        )

        self.hop_latency_ms = self._histogram(
            "hop_latency_ms", "Last sample of a hop received to its score decided.", HOP_LATENCY_BUCKETS_MS
        )
        self.inference_ms = self._histogram("inference_ms", "One batch through the runtime.", INFERENCE_BUCKETS_MS)
        self.batch_size = self._histogram("batch_size", "Streams per inference.", BATCH_BUCKETS)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format (`CONTENT_TYPE`). Any thread may call it."""
        return generate_latest(self.registry)

    def _tally(self, name: str, meaning: str) -> Tally:
        tally = Tally(f"{PREFIX}_{name}", meaning)
        self.registry.register(tally)
        return tally

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", meaning, buckets=buckets, registry=self.registry)


class Tally(Collector):
    """A counter of one thread's, for what is counted with every message: a plain number, without Counter's lock."""

    def __init__(self, name: str, meaning: str) -> None:
        self.value = 0
        self._name, self._meaning = name, meaning

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Report the number as it is; any thread may call it."""
        yield CounterMetricFamily(self._name, self._meaning, value=self.value)


class BoundedCounter:
    """A labelled counter whose labels come from outside: past MAX_LABEL_VALUES combinations all count as `other`."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._children: dict[tuple[str, ...], Counter] = {}

    def inc(self, *labels: str, by: float = 1.0) -> None:
        """Count under these label values, given in the order of the counter's labels."""
        child = self._children.get(labels)
        if child is None:
            if len(self._children) >= MAX_LABEL_VALUES:
                labels = (OTHER,) * len(labels)
            child = self._children[labels] = self._counter.labels(*labels)
        child.inc(by)
