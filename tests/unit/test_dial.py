"""Dialling: a name server that does not answer holds up neither the attempt nor the end of the process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from edge.daemon.dial import dial
from edge.daemon.transport import BrokerSettings
from edge.errors import TransportError

SCRIPT = """
import asyncio, socket, time
from edge.daemon.dial import dial
from edge.daemon.transport import BrokerSettings
from edge.errors import TransportError
socket.getaddrinfo = lambda *_, **__: time.sleep(600)
async def main():
    try:
        await dial(BrokerSettings(host="broker.invalid", port=1883, client_id="x", connect_timeout_s=0.2))
    except TransportError as error:
        print(error)
asyncio.run(main())
"""


def test_a_name_server_that_does_not_answer_holds_up_nothing():
    begun_s = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert "the name server does not answer" in ended.stdout
    assert time.monotonic() - begun_s < 50


def test_what_is_no_host_name_is_told_at_once_as_that():
    with pytest.raises(TransportError, match="it is no host name"):
        asyncio.run(dial(BrokerSettings(host="broker..lan", port=1883, client_id="x", connect_timeout_s=600.0)))
