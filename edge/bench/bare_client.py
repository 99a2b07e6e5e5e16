"""What receiving alone costs: paho's client, set up as the daemon's is, that counts messages and does nothing else.

Run as a process: `python -m edge.bench.bare_client --port 1883`. It says "ready" when it has subscribed and, when it is
told to end, how many messages came and when the last one did, by the machine's monotonic clock.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from edge.stream.topics import WAVE_FILTER

READY = "ready"


LOOP_S = 0.1


class Counter:
    """Counts what comes until it is told to end."""

    def __init__(self) -> None:
        self.messages, self.last_s, self.ended = 0, 0.0, False

    def subscribe(self, client: Client, *_: object) -> None:
        """Ask for what the daemon asks for."""
        client.subscribe(WAVE_FILTER, qos=1)

    def end(self, *_: object) -> None:
        """Take a signal."""
        self.ended = True

    def note(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        """Take a message from paho."""
        self.messages += 1
        self.last_s = time.monotonic()


def main() -> int:
    """Count until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m edge.bench.bare_client", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    counter = Counter()
    signal.signal(signal.SIGTERM, counter.end)
    client = Client(CallbackAPIVersion.VERSION2, client_id="bench-bare", protocol=MQTTProtocolVersion.MQTTv5)
    client.on_message = counter.note
    client.on_connect = counter.subscribe
    client.on_subscribe = lambda *_: print(READY, flush=True)
    client.connect(args.host, args.port)
    while not counter.ended and client.loop(LOOP_S) == MQTTErrorCode.MQTT_ERR_SUCCESS:
        pass
    client.disconnect()
    print(json.dumps({"messages": counter.messages, "last_s": counter.last_s}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
