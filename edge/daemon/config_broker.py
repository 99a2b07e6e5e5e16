"""The configuration's [broker] and [broker.tls] sections."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from edge.daemon.config_types import AnyPath, CredentialName, Seconds, Section


class TlsConfig(Section):
    """TLS to the broker; the section alone, empty, uses the system's certificate authorities."""

    ca_file: AnyPath | None = Field(
        default=None,
        title="Certificate authority",
        description="PEM file the broker's certificate is checked against; by default the system's authorities.",
        examples=["/etc/ecg-edge/ca.pem"],
    )
    cert_file: AnyPath | None = Field(
        default=None,
        title="Client certificate",
        description="PEM file of the certificate this daemon shows the broker.",
        examples=["/etc/ecg-edge/client.pem"],
    )
    key_file: AnyPath | None = Field(
        default=None,
        title="Client key file",
        description="PEM file of the client certificate's private key; only this or key_credential.",
        examples=["/etc/ecg-edge/client.key"],
    )
    key_credential: CredentialName | None = Field(
        default=None,
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

    host: str = Field(default="127.0.0.1", title="Host", description="The broker's host name or address.", min_length=1)
    port: int = Field(
        default=1883, title="Port", description="The broker's TCP port; 8883 is usual with TLS.", ge=1, le=65535
    )
    protocol: Literal["5", "3.1.1"] = Field(
        default="5", title="MQTT version", description='"5", or "3.1.1" for a broker that is too old for it.'
    )
    client_id: str | None = Field(
        default=None,
        title="Client id",
        description="MQTT client id, one per daemon; by default ecg-edge- and the node's name.",
        min_length=1,
        max_length=128,
        examples=["ecg-edge-bedside-1"],
    )
    username: str | None = Field(
        default=None, title="User name", description="MQTT user name.", min_length=1, examples=["ecg-edge"]
    )
    password_file: AnyPath | None = Field(
        default=None,
        title="Password file",
        description="File whose first line is the password; only this or password_credential.",
        examples=["/etc/ecg-edge/mqtt-password"],
    )
    password_credential: CredentialName | None = Field(
        default=None,
        title="Password credential",
        description="Name of the systemd credential that holds the password (LoadCredential= in the unit).",
        examples=["mqtt-password"],
    )
    keepalive_s: int = Field(
        default=20,
        title="Keep-alive",
        description="A broker silent for 1.5 times this long is taken as lost.",
        ge=2,
        le=3600,
    )
    session_expiry_s: int = Field(
        default=600,
        title="Session expiry",
        description="How long the broker keeps this daemon's session, and the messages for it, while it is away.",
        ge=0,
        le=604_800,
    )
    receive_maximum: int = Field(
        default=1000,
        title="Receive maximum",
        description="Messages the broker may have in flight to this daemon (MQTT 5).",
        ge=1,
        le=65535,
    )
    reconnect_min_s: Seconds = Field(
        default=0.5,
        title="First reconnect",
        description="Upper bound of the first random wait before connecting again.",
    )
    reconnect_max_s: Seconds = Field(
        default=30.0,
        title="Slowest reconnect",
        description="Upper bound the random wait grows to, doubling at every failure.",
    )
    tls: TlsConfig | None = Field(default=None, title="TLS", description="Encrypts the connection to the broker.")

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
