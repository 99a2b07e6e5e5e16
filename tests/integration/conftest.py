"""Fixtures of the integration tests: real brokers, certificates, and topics that no other test uses."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.mosquitto import Mosquitto, ServerTls, find_program

StartBroker = Callable[..., Mosquitto]


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, certificates of a server, of a server elsewhere and of a client; another authority."""

    ca: Path
    server: Path
    elsewhere: Path
    client: Path
    stranger_ca: Path


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[StartBroker]:
    """Start brokers: `start_broker(users={name: password}, tls=ServerTls(...), rules=[...])`, each on its own port."""
    if find_program("mosquitto") is None:
        reason = "mosquitto is not installed (Debian: apt install mosquitto)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with ExitStack() as running:

        def start(
            users: dict[str, str] | None = None, tls: ServerTls | None = None, rules: Sequence[str] = ()
        ) -> Mosquitto:
            broker = Mosquitto(tmp_path / f"broker-{uuid.uuid4().hex[:8]}", users, tls, rules)
            running.callback(broker.kill)
            broker.start()
            return broker

        yield start


@pytest.fixture
def broker(start_broker: StartBroker) -> Mosquitto:
    """A running broker that lets anybody in."""
    return start_broker()


@pytest.fixture
def topic() -> str:
    """A topic of this test alone."""
    return f"test/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates for 127.0.0.1 and localhost, made for this run."""
    directory = tmp_path_factory.mktemp("certificates")
    names = ("ca", "server", "elsewhere", "client", "stranger-ca")
    ca, server, elsewhere, client, stranger_ca = (directory / f"{name}.pem" for name in names)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(ca))
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(str(server))
    authority.issue_cert("elsewhere.example").private_key_and_cert_chain_pem.write_to_path(str(elsewhere))
    authority.issue_cert("edge@ward-7").private_key_and_cert_chain_pem.write_to_path(str(client))
    trustme.CA().cert_pem.write_to_path(str(stranger_ca))
    return Certificates(ca, server, elsewhere, client, stranger_ca)
