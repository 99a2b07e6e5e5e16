"""From the configuration to what the MQTT transport is given: secrets read, credentials found, files looked at."""

from __future__ import annotations

import os
from pathlib import Path

from edge.daemon.config import Config
from edge.daemon.config_broker import BrokerConfig, TlsConfig
from edge.daemon.transport import BrokerSettings, TlsSettings
from edge.errors import ConfigError

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
SECRET_LIMIT_BYTES = 64 * 1024
PACKET_LIMIT_PAYLOADS = 8
"""The broker silently drops what exceeds the packet limit; what only exceeds a payload's arrives, and is reported."""
MAX_PACKET_BYTES = (1 << 28) - 1


def broker_settings(config: Config) -> BrokerSettings:
    """Return the settings of the daemon's own connection; raises ConfigError when a secret cannot be read."""
    broker = config.broker
    return BrokerSettings(
        client_id=config.client_id,
        host=broker.host,
        port=broker.port,
        protocol=5 if broker.protocol == "5" else 311,
        tls=None if broker.tls is None else TlsSettings(broker.tls.ca_file, broker.tls.cert_file, key_path(broker.tls)),
        username=broker.username,
        password=password(broker),
        keepalive_s=broker.keepalive_s,
        session_expiry_s=broker.session_expiry_s,
        receive_maximum=broker.receive_maximum,
        maximum_packet_bytes=min(PACKET_LIMIT_PAYLOADS * config.streams.max_payload_bytes, MAX_PACKET_BYTES),
        reconnect_min_s=broker.reconnect_min_s,
        reconnect_max_s=broker.reconnect_max_s,
    )


def password(broker: BrokerConfig) -> str | None:
    """Return the broker password, None when none is configured; raises ConfigError when it cannot be read."""
    if broker.password_file is not None:
        return _first_line("broker.password_file", broker.password_file)
    if broker.password_credential is not None:
        key = "broker.password_credential"
        return _first_line(key, _credential_path(key, broker.password_credential))
    return None


def key_path(tls: TlsConfig) -> Path | None:
    """Return the file of the client's private key, None when no client certificate is configured."""
    if tls.key_credential is not None:
        return _credential_path("broker.tls.key_credential", tls.key_credential)
    return tls.key_file


def file_problems(broker: BrokerConfig) -> list[str]:
    """Return what is wrong with the files the section names, one line each with the key.

    Credentials are looked at only where systemd provides them: elsewhere nobody can tell.
    """
    tls = broker.tls or TlsConfig()
    problems = [
        f"broker.tls.{key}: {path} is missing or not readable by this user"
        for key, path in (("ca_file", tls.ca_file), ("cert_file", tls.cert_file), ("key_file", tls.key_file))
        if path is not None and not os.access(path, os.R_OK)
    ]
    try:
        if broker.password_credential is None or CREDENTIALS_VARIABLE in os.environ:
            password(broker)
    except ConfigError as error:
        problems.append(str(error))
    return problems


def _credential_path(key: str, name: str) -> Path:
    """Return the file of a systemd credential; `key` names the setting in the error when there can be none."""
    folder = os.environ.get(CREDENTIALS_VARIABLE)
    if not folder:
        advice = f"credential {name} needs ${CREDENTIALS_VARIABLE}, which systemd sets from LoadCredential= in the unit"
        raise ConfigError(key, (advice,))
    return Path(folder) / name


def _first_line(key: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(SECRET_LIMIT_BYTES).decode("utf-8")
    except OSError as error:
        raise ConfigError(key, (f"{path} cannot be read: {error.strerror}{_advice(path, error)}",)) from None
    except UnicodeDecodeError:
        raise ConfigError(key, (f"{path} is not UTF-8 text",)) from None
    secret = text.split("\n", 1)[0].rstrip("\r")
    if not secret:
        raise ConfigError(key, (f"{path} has an empty first line{_advice(path)}",))
    return secret


def _advice(path: Path, error: OSError | None = None) -> str:
    """Say what to do about a file with no secret for us, what is wrong with it already said."""
    if CREDENTIALS_VARIABLE in os.environ and path.parent == Path(os.environ[CREDENTIALS_VARIABLE]):
        return f"; write the secret into the file that LoadCredential={path.name}: names in the unit, and start again"
    if isinstance(error, PermissionError):
        return "; let this user read it, or under systemd name a credential instead"
    return "" if error is not None else "; write the password there"
