"""The daemon's configuration: its sections, their keys, defaults, units and limits.

The sample file, the reference in the README and the error messages are made from what stands here.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

MEBIBYTE = 1024 * 1024


def _from_configuration_folder(path: Path, info: ValidationInfo) -> Path:
    """Take a relative path from the folder of the configuration file, not from wherever the daemon was started."""
    folder = (info.context or {}).get("folder", Path())
    return Path(folder) / path.expanduser()


def _default_node_name() -> str:
    """Return the host's name as an identifier of the MQTT contract."""
    name = re.sub(r"[^a-z0-9_-]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")
    return name[:64] or "edge"


def _default_state_dir() -> Path:
    """Return the state directory systemd gives, else the one XDG's base directory specification names."""
    from_systemd = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    from_user = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(from_systemd) if from_systemd else Path(from_user) / "ecg-edge"


AnyPath = Annotated[Path, Field(strict=False), AfterValidator(_from_configuration_folder)]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
CredentialName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Seconds = Annotated[float, Field(gt=0.0, le=86_400.0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of all sections: immutable, types taken literally, unknown keys and not-a-number refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class NodeConfig(Section):
    """This daemon: its name, where it keeps what it must not forget, how it logs."""

    name: Identifier = Field(
        default_factory=_default_node_name,
        title="Node name",
        description="Name in this daemon's topics and alerts; by default the host's name.",
        examples=["bedside-1"],
    )
    state_dir: AnyPath = Field(
        default_factory=_default_state_dir,
        title="State directory",
        description="Undelivered alerts and snapshots; by default systemd's $STATE_DIRECTORY, else ~/.local/state.",
        examples=["/var/lib/ecg-edge"],
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", title="Log level", description="The least severe message that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", title="Log format", description="auto: coloured text on a terminal, JSON lines elsewhere."
    )


class TlsConfig(Section):
    """TLS to the broker; the section alone, empty, uses the system's certificate authorities."""

    ca_file: AnyPath | None = Field(
        None,
        title="Certificate authority",
        description="PEM file the broker's certificate is checked against; by default the system's authorities.",
        examples=["/etc/ecg-edge/ca.pem"],
    )
    cert_file: AnyPath | None = Field(
        None,
        title="Client certificate",
        description="PEM file of the certificate this daemon shows the broker.",
        examples=["/etc/ecg-edge/client.pem"],
    )
    key_file: AnyPath | None = Field(
        None,
        title="Client key file",
        description="PEM file of the client certificate's private key; only this or key_credential.",
        examples=["/etc/ecg-edge/client.key"],
    )
    key_credential: CredentialName | None = Field(
        None,
        title="Client key credential",
        description="Name of the systemd credential that holds the private key (LoadCredential= in the unit).",
        examples=["mqtt-key"],
    )

    @model_validator(mode="after")
    def _check(self) -> TlsConfig:
        keys = [key for key in (self.key_file, self.key_credential) if key is not None]
        if len(keys) == 2:
            raise ValueError("give key_file or key_credential, not both")
        if bool(keys) != (self.cert_file is not None):
            raise ValueError("a client certificate needs cert_file and one of key_file and key_credential")
        return self


class BrokerConfig(Section):
    """The MQTT broker that devices publish to and alerts go out through."""

    host: str = Field("127.0.0.1", title="Host", description="The broker's host name or address.", min_length=1)
    port: int = Field(1883, title="Port", description="The broker's TCP port; 8883 is usual with TLS.", ge=1, le=65535)
    protocol: Literal["5", "3.1.1"] = Field(
        "5", title="MQTT version", description='"5", or "3.1.1" for a broker that is too old for it.'
    )
    client_id: str | None = Field(
        None,
        title="Client id",
        description="MQTT client id, one per daemon; by default ecg-edge-<node name>.",
        min_length=1,
        max_length=128,
        examples=["ecg-edge-bedside-1"],
    )
    username: str | None = Field(
        None, title="User name", description="MQTT user name.", min_length=1, examples=["ecg-edge"]
    )
    password_file: AnyPath | None = Field(
        None,
        title="Password file",
        description="File whose first line is the password; only this or password_credential.",
        examples=["/etc/ecg-edge/mqtt-password"],
    )
    password_credential: CredentialName | None = Field(
        None,
        title="Password credential",
        description="Name of the systemd credential that holds the password (LoadCredential= in the unit).",
        examples=["mqtt-password"],
    )
    keepalive_s: int = Field(
        20, title="Keep-alive", description="A broker silent for 1.5 times this long is taken as lost.", ge=2, le=3600
    )
    session_expiry_s: int = Field(
        600,
        title="Session expiry",
        description="How long the broker keeps this daemon's session, and the messages for it, while it is away.",
        ge=0,
        le=604_800,
    )
    receive_maximum: int = Field(
        1000,
        title="Receive maximum",
        description="Messages the broker may have in flight to this daemon (MQTT 5).",
        ge=1,
        le=65535,
    )
    reconnect_min_s: Seconds = Field(
        0.5, title="First reconnect", description="Upper bound of the first random wait before connecting again."
    )
    reconnect_max_s: Seconds = Field(
        30.0, title="Slowest reconnect", description="Upper bound the random wait grows to, doubling at every failure."
    )
    tls: TlsConfig | None = Field(None, title="TLS", description="Encrypts the connection to the broker.")

    @model_validator(mode="after")
    def _check(self) -> BrokerConfig:
        secret = self.password_file or self.password_credential
        if self.password_file is not None and self.password_credential is not None:
            raise ValueError("give password_file or password_credential, not both")
        if secret is not None and self.username is None:
            raise ValueError("a password needs a username")
        if self.reconnect_max_s < self.reconnect_min_s:
            raise ValueError("reconnect_max_s must not be below reconnect_min_s")
        return self


class ModelConfig(Section):
    """The model and the engine that runs it."""

    bundle: AnyPath | None = Field(
        None,
        title="Bundle",
        description="Directory of the model bundle; by default the one that ships with ecg-edge.",
        examples=["/var/lib/ecg-edge/bundles/ecg-mamba"],
    )
    runtime: Literal["auto", "onnxruntime"] = Field(
        "auto", title="Runtime", description="auto: the fastest that works here (see ecg-edge doctor)."
    )
    threads: int = Field(1, title="Threads", description="Threads one inference may use.", ge=1, le=64)
    max_batch: int = Field(64, title="Largest batch", description="Streams scored in one inference.", ge=1, le=1024)


class StreamsConfig(Section):
    """What is expected of ECG streams and how much of them is kept."""

    max_streams: int = Field(
        2000, title="Most streams", description="Devices followed at once; further ones are refused.", ge=1, le=100_000
    )
    gap_bridge_s: float = Field(
        2.0,
        title="Bridged gap",
        description="Longest gap that is filled and flagged; behind a longer one the stream warms up again.",
        ge=0.0,
        le=10.0,
    )
    reorder_wait_s: float = Field(
        0.5, title="Reorder wait", description="How long a missing chunk is waited for.", ge=0.0, le=10.0
    )
    silent_after_s: Seconds = Field(
        5.0, title="Silent after", description="A stream without samples for this long raises stream_silent."
    )
    evict_after_s: Annotated[float, Field(gt=0.0, le=604_800.0)] = Field(
        3600.0, title="Forgotten after", description="A stream without samples for this long gives its place back."
    )
    backlog_s: Seconds = Field(
        20.0,
        title="Backlog",
        description="Samples a stream may have waiting; under overload the oldest beyond this are dropped and counted.",
    )
    max_payload_bytes: int = Field(
        MEBIBYTE, title="Largest payload", description="Larger messages are refused unread.", ge=1024, le=64 * MEBIBYTE
    )

    @model_validator(mode="after")
    def _check(self) -> StreamsConfig:
        if self.evict_after_s <= self.silent_after_s:
            raise ValueError("evict_after_s must be above silent_after_s")
        return self


class ClassAlertConfig(Section):
    """What differs for one class of the model from the operating point its bundle states."""

    enabled: bool = Field(True, title="Enabled", description="false: the class is scored but raises no alert.")
    on: Probability | None = Field(
        None, title="On", description="Probability from which the condition is on.", examples=[0.7]
    )
    off: Probability | None = Field(
        None, title="Off", description="Probability below which the condition is off again.", examples=[0.5]
    )
    dwell_s: Annotated[float, Field(ge=0.0, le=3600.0)] | None = Field(
        None, title="Dwell", description="How long it must stay on before an alert is raised.", examples=[5.0]
    )
    priority: Literal["high", "medium", "low"] | None = Field(
        None, title="Priority", description="high, medium or low.", examples=["high"]
    )

    @model_validator(mode="after")
    def _check(self) -> ClassAlertConfig:
        if self.on is not None and self.off is not None and self.off > self.on:
            raise ValueError("off must not be above on")
        return self


class AlertsConfig(Section):
    """When alerts are raised, repeated and limited."""

    refractory_s: Annotated[float, Field(ge=0.0, le=86_400.0)] = Field(
        30.0, title="Refractory time", description="After a clear, the same condition is not raised for this long."
    )
    update_every_s: Seconds = Field(
        30.0, title="Update interval", description="A raised alert is published again this often while it lasts."
    )
    max_raises_per_hour: int = Field(
        20, title="Raise limit", description="Raises per stream and condition in any hour; more are counted.", ge=1
    )
    expires_s: Seconds = Field(
        120.0, title="Expiry", description="A receiver may take an alert as over when it heard nothing for this long."
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

    scores: bool = Field(True, title="Scores", description="Publish the probabilities of every hop (QoS 0).")


class SnapshotConfig(Section):
    """Snapshots of the streams' state, from which a restart goes on."""

    interval_s: Annotated[float, Field(ge=0.1, le=3600.0)] = Field(
        1.0, title="Interval", description="How often changed streams are saved; at most this much is lost in a crash."
    )


class HttpConfig(Section):
    """The /healthz and /metrics endpoint."""

    enabled: bool = Field(True, title="Enabled", description="Serve /healthz and /metrics.")
    host: str = Field(
        "127.0.0.1", title="Address", description="Address listened on; it has no access control.", min_length=1
    )
    port: int = Field(9109, title="Port", description="TCP port listened on; 0 takes a free one.", ge=0, le=65535)


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


def section_in(annotation: object) -> type[Section] | None:
    """Return the section class in a field's type, also inside `X | None` and `dict[str, X]`; None if it has none."""
    arguments = get_args(annotation)
    if arguments:
        return next((found for argument in arguments if (found := section_in(argument))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None
