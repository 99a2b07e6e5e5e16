"""The daemon's configuration: its sections, their keys, defaults, units and limits.

The sample file, the reference in the README and the error messages are made from what stands here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edge.daemon.config_broker import BrokerConfig
from edge.daemon.config_types import (
    AnyPath,
    Identifier,
    Probability,
    Seconds,
    Section,
    default_node_name,
    default_state_dir,
)

MEBIBYTE = 1024 * 1024


class NodeConfig(Section):
    """This daemon: its name, where it keeps what it must not forget, how it logs."""

    name: Identifier = Field(
        default_factory=default_node_name,
        title="Node name",
        description="Name in this daemon's topics and alerts; by default the host's name.",
        examples=["bedside-1"],
    )
    state_dir: AnyPath = Field(
        default_factory=default_state_dir,
        title="State directory",
        description="Undelivered alerts and snapshots; by default systemd's $STATE_DIRECTORY, else ~/.local/state.",
        examples=["/var/lib/ecg-edge"],
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", title="Log level", description="The least severe message that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", title="Log format", description="auto: coloured text on a terminal, JSON lines elsewhere."
    )


class ModelConfig(Section):
    """The model and the engine that runs it."""

    bundle: AnyPath | None = Field(
        default=None,
        title="Bundle",
        description="Directory of the model bundle; by default the one that ships with ecg-edge.",
        examples=["/var/lib/ecg-edge/bundles/ecg-mamba"],
    )
    runtime: Literal["auto", "native", "onnxruntime", "tensorrt"] = Field(
        default="auto",
        title="Runtime",
        description="auto: the fastest on this CPU (see ecg-edge doctor); tensorrt: an NVIDIA GPU.",
    )
    threads: int = Field(default=1, title="Threads", description="Threads one inference may use.", ge=1, le=64)
    max_batch: int = Field(
        default=32,
        title="Largest batch",
        description="Streams scored in one inference; beyond 32 a batch only takes longer (see make bench).",
        ge=1,
        le=1024,
    )


class StreamsConfig(Section):
    """What is expected of ECG streams and how much of them is kept."""

    max_streams: int = Field(
        default=2000,
        title="Most streams",
        description="Devices followed at once; further ones are refused.",
        ge=1,
        le=100_000,
    )
    gap_bridge_s: float = Field(
        default=2.0,
        title="Bridged gap",
        description="Longest gap that is filled and flagged; behind a longer one the stream warms up again.",
        ge=0.1,
        le=10.0,
    )
    reorder_wait_s: float = Field(
        default=0.5, title="Reorder wait", description="How long a missing chunk is waited for.", ge=0.0, le=10.0
    )
    silent_after_s: Seconds = Field(
        default=5.0, title="Silent after", description="A stream without samples for this long raises stream_silent."
    )
    evict_after_s: Annotated[float, Field(gt=0.0, le=604_800.0)] = Field(
        default=3600.0,
        title="Forgotten after",
        description="A stream without samples for this long gives its place back.",
    )
    backlog_s: Seconds = Field(
        default=20.0,
        title="Backlog",
        description="Samples a stream may have waiting; under overload the oldest beyond this are dropped and counted.",
    )
    max_payload_bytes: int = Field(
        default=MEBIBYTE,
        title="Largest payload",
        description="Larger messages are refused unread.",
        ge=1024,
        le=64 * MEBIBYTE,
    )

    @model_validator(mode="after")
    def _check(self) -> StreamsConfig:
        if self.evict_after_s <= self.silent_after_s:
            raise ValueError("evict_after_s must be above silent_after_s")
        return self


class ClassAlertConfig(Section):
    """What differs for one class of the model from the operating point its bundle states."""

    on: Probability | None = Field(
        default=None, title="On", description="Probability from which the condition is on.", examples=[0.7]
    )
    off: Probability | None = Field(
        default=None, title="Off", description="Probability below which the condition is off again.", examples=[0.5]
    )
    dwell_s: Annotated[float, Field(ge=0.0, le=3600.0)] | None = Field(
        default=None, title="Dwell", description="How long it must stay on before an alert is raised.", examples=[5.0]
    )
    priority: Literal["high", "medium", "low"] | None = Field(
        default=None, title="Priority", description="high, medium or low.", examples=["high"]
    )

    @model_validator(mode="after")
    def _check(self) -> ClassAlertConfig:
        if self.on is not None and self.off is not None and self.off > self.on:
            raise ValueError("off must not be above on")
        return self


class AlertsConfig(Section):
    """When alerts are raised, repeated and limited."""

    refractory_s: Annotated[float, Field(ge=0.0, le=86_400.0)] = Field(
        default=30.0,
        title="Refractory time",
        description="After a clear, the same condition is not raised for this long.",
    )
    update_every_s: Seconds = Field(
        default=30.0,
        title="Update interval",
        description="A raised alert is published again this often while it lasts.",
    )
    max_raises_per_hour: int = Field(
        default=20,
        title="Raise limit",
        description="Raises per stream and condition in any hour; more are counted.",
        ge=1,
    )
    expires_s: Seconds = Field(
        default=120.0,
        title="Expiry",
        description="A receiver may take an alert as over when it heard nothing for this long.",
    )
    classes: dict[str, ClassAlertConfig] = Field(
        default_factory=dict, title="Per class", description="One table per class of the model.", examples=["MI"]
    )

    @model_validator(mode="after")
    def _check(self) -> AlertsConfig:
        if self.expires_s <= self.update_every_s:
            raise ValueError("expires_s must be above update_every_s, or every alert expires between two updates")
        return self


class PublishConfig(Section):
    """What is published besides alerts, status and health."""

    scores: bool = Field(default=True, title="Scores", description="Publish the probabilities of every hop (QoS 0).")


class SnapshotConfig(Section):
    """Snapshots of the streams' state, from which a restart goes on."""

    interval_s: Annotated[float, Field(ge=0.1, le=3600.0)] = Field(
        default=1.0,
        title="Interval",
        description="How often changed streams are saved: what a crash may lose. Less often with so many streams that "
        "saving would take more than a tenth of the time or write more than a megabyte a second.",
    )


class HttpConfig(Section):
    """The /healthz and /metrics endpoint."""

    enabled: bool = Field(default=True, title="Enabled", description="Serve /healthz and /metrics.")
    host: str = Field(
        default="127.0.0.1", title="Address", description="Address listened on; it has no access control.", min_length=1
    )
    port: int = Field(
        default=9109, title="Port", description="TCP port listened on; 0 takes a free one.", ge=0, le=65535
    )


class Config(Section):
    """Everything the daemon is told. Every section and every key may be left out."""

    node: NodeConfig = Field(default_factory=NodeConfig)
    broker: BrokerConfig = Field(default_factory=BrokerConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    streams: StreamsConfig = Field(default_factory=StreamsConfig)
    alerts: AlertsConfig = Field(default_factory=AlertsConfig)
    publish: PublishConfig = Field(default_factory=PublishConfig)
    snapshot: SnapshotConfig = Field(default_factory=SnapshotConfig)
    http: HttpConfig = Field(default_factory=HttpConfig)

    @property
    def client_id(self) -> str:
        """The MQTT client id in force."""
        return self.broker.client_id or f"ecg-edge-{self.node.name}"
