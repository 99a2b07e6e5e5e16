"""One MQTT connection: a paho client on an open socket, driven by the asyncio loop from CONNECT to its end.

A link is never used twice. What paho would carry over to a next connection (unanswered publishes, packet numbers of
messages not yet acknowledged) so ends with the link, and the caller decides what is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge.daemon.dial import hang_up
from edge.daemon.packet_reader import PacketReader
from edge.daemon.paho_client import LastFault, client_on, explain_loss, explain_refusal, send_connect
from edge.daemon.publisher import UNANSWERED_LIMIT, Publisher
from edge.daemon.socket_buffer import SocketBuffer
from edge.daemon.transport import BrokerSettings, Message, Subscription, Will
from edge.errors import TransportError
from edge.stream.mqtt_packets import Published, write_puback

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike  # a Protocol that paho defines for type checkers only

CLOSE_TIMEOUT_S = 2.0
HOUSEKEEPING_PERIOD_S = 1.0
PACKETS_PER_TURN = 32
"""How many packets are read before other work of the loop gets its turn."""
PAUSE_S = 0.003
"""How long messages, both ways, are let gather between two turns while any come in: the loop's own work and the calls
to the system then are for a dozen of them at once."""


class PahoLink:
    """One connection. `publisher` is for what goes out, `ended` holds the reason as soon as it is over; `close` must be
    called in any case.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        sock: socket.socket,
        will: Will | None,
        clean_start: bool,
        on_message: Callable[[Message], None],
    ) -> None:
        """Take over the connected socket. on_message is called for each message and must not raise."""
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[TransportError] = self._loop.create_future()
        self._settings = settings
        self._sock = SocketBuffer(sock)
        version_5 = settings.protocol == 5
        self.publisher = Publisher(self._sock, settings.address, version_5, self._write_soon, self.ended, self.end)
        self._reader = PacketReader(
            self._sock, version_5, self._read_by_paho, self._published_to_us, self.publisher.note_answer
        )
        self._clean_start = clean_start
        self._on_message = on_message
        self._fault = LastFault()
        self._refusal: TransportError | None = None
        self._accepted: asyncio.Future[bool] = self._loop.create_future()
        self._answers: dict[int, asyncio.Future[list[ReasonCode]]] = {}
        self._write_due = False
        self._polling = False
        self._closing = False
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._client = self._new_client(will)

    async def open(self) -> bool:
        """Send CONNECT and return whether the broker still held our session; raises TransportError when refused.

        The time for the answer, and for all up to `established`, is connect_timeout_s.
        """
        self._call_later(self._settings.connect_timeout_s, self._give_up)
        send_connect(self._client, self._settings, self._clean_start)
        self._call_later(HOUSEKEEPING_PERIOD_S, self._keep_house)
        return await self._accepted

    def established(self) -> None:
        """Declare the connection made: from here on only its end counts, not how long it takes."""
        self._timers.pop(self._give_up).cancel()

    async def subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """Subscribe in one packet; raises TransportError when the broker grants less than was asked."""
        asked = [(subscription.topic_filter, int(subscription.qos)) for subscription in subscriptions]
        result, number = self._client.subscribe(asked)
        codes = await self._answer_to(result, number)
        for subscription, code in zip_longest(subscriptions, codes[: len(asked)]):
            if code is None or code.value != subscription.qos:
                raise TransportError(
                    f"{self._settings.address} did not grant the subscription to {subscription.topic_filter} at "
                    f"QoS {subscription.qos} ({code}); check the broker's access rules for {self._settings.client_id}"
                )

    def end(self, reason: TransportError) -> None:
        """Declare the connection over: all who wait get the reason, and `close` sends no DISCONNECT (so: the will)."""
        if self.ended.done():
            return
        self.ended.set_result(reason)
        for timer in self._timers.values():
            timer.cancel()
        self.publisher.give_up(reason)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(TransportError(str(reason)))
        if not self._accepted.done():
            self._accepted.set_exception(reason)
            self._accepted.exception()  # marks it as seen: nobody waits for it when the link ended before `open`

    async def close(self) -> None:
        """Disconnect cleanly if still connected, within CLOSE_TIMEOUT_S, and free everything. No message follows."""
        self._closing, self._polling = True, False  # nothing is read any more, so no reading will write
        try:
            if not self.ended.done():
                await self._say_goodbye()
        finally:
            self._release()

    async def _say_goodbye(self) -> None:
        """Send DISCONNECT and let the broker close first.

        Closing with unread input would reset the connection, and a broker may then miss the DISCONNECT and publish
        the will. So a second handle keeps the connection open past paho's close, until the broker has hung up.
        """
        deadline = self._loop.time() + CLOSE_TIMEOUT_S
        self._loop.remove_reader(self._sock.fileno())
        with socket.socket(fileno=os.dup(self._sock.fileno())) as handle, contextlib.suppress(OSError):
            self._client.disconnect()
            await asyncio.wait([self.ended], timeout=CLOSE_TIMEOUT_S)
            await hang_up(handle, deadline)

    def _release(self) -> None:
        self.end(TransportError(f"the connection to {self._settings.address} was closed"))
        self._client.on_socket_close = self._client.on_disconnect = None
        if self._sock.fileno() >= 0:
            self._unwatch(self._client, None, self._sock)
            self._sock.close()

    async def _answer_to(self, result: MQTTErrorCode, number: int | None) -> list[ReasonCode]:
        if self.ended.done():
            raise TransportError(str(self.ended.result()))
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS or number is None:
            raise TransportError(f"nothing can be sent to {self._settings.address}: {result!s}")
        self._answers[number] = self._loop.create_future()
        try:
            return await self._answers[number]
        finally:
            del self._answers[number]

    # Called by the loop: the socket is ready, or time has passed.

    def _read(self) -> None:
        if self._closing or self.ended.done():
            return
        before = self._reader.packets
        try:
            more = self._reader.read(PACKETS_PER_TURN)
        except OSError as error:
            self._lose(str(error))
        except Exception as error:
            self.end(TransportError(f"{self._settings.address} sent what cannot be read: {error!r}"))
        else:
            if more:
                self._loop.call_soon(self._read)
            else:
                self._read_later(polling=self._reader.packets > before)

    def _read_later(self, polling: bool) -> None:
        """Read again in a while, or when the loop says that there is something."""
        if polling is not self._polling and self._sock.fileno() >= 0:
            self._polling = polling
            if polling:
                self._loop.remove_reader(self._sock.fileno())
            else:
                self._loop.add_reader(self._sock.fileno(), self._read)
        self._write()
        if self._polling:
            self._call_later(PAUSE_S, self._read)

    def _read_by_paho(self) -> bool:
        read = self._client.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS
        return read and not self._closing and not self.ended.done()

    def _write_soon(self) -> None:
        """Write when others of this turn of the loop have added theirs, or at the end of the next reading."""
        if not self._write_due and not self._polling:
            self._write_due = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._write_due = False
        if self.ended.done():
            return
        try:
            if self._sock.flush():
                self._client.loop_write()
            self._watch_writing(not self._sock.flush() or self._client.want_write())
        except OSError as error:
            self._lose(str(error))
        except Exception as error:
            self.end(TransportError(f"writing to {self._settings.address} failed: {error!r}"))

    def _watch_writing(self, more: bool) -> None:
        """Write again when the socket takes more, if there is more."""
        if more and self._sock.fileno() >= 0:
            self._loop.add_writer(self._sock, self._write)
        elif self._sock.fileno() >= 0:
            self._loop.remove_writer(self._sock)

    def _keep_house(self) -> None:
        try:
            self._client.loop_misc()
        except Exception as error:
            self.end(TransportError(f"keeping the connection to {self._settings.address} failed: {error!r}"))
        if not self.ended.done():
            self._call_later(HOUSEKEEPING_PERIOD_S, self._keep_house)

    def _give_up(self) -> None:
        s = self._settings
        self.end(TransportError(f"{s.address} does not answer in MQTT within {s.connect_timeout_s:g} s"))

    def _call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._timers[callback] = self._loop.call_later(delay_s, callback)

    # Called by paho, on the loop, some while it holds a lock that is not re-entrant: note what happened, no more.

    def _new_client(self, will: Will | None) -> Client:
        client = client_on(self._sock, self._settings, will)
        client.enable_logger(self._fault.logger)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_subscribe = lambda _client, _data, number, codes, _properties: self._answered(number, codes)
        client.on_message = self._arrived
        client.on_socket_open = lambda _client, _data, sock: self._loop.add_reader(sock.fileno(), self._read)
        client.on_socket_close = self._unwatch
        client.on_socket_register_write = lambda _client, _data, _sock: self._write_soon()
        return client

    def _unwatch(self, _client: Client, _data: object, sock: SocketLike) -> None:
        self._loop.remove_reader(sock.fileno())
        self._loop.remove_writer(sock.fileno())

    def _connected(
        self, _client: Client, _data: object, flags: ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        if code.is_failure:
            self._refusal = TransportError(explain_refusal(self._settings, str(code)))
            return
        self.publisher.limit(
            getattr(properties, "ReceiveMaximum", UNANSWERED_LIMIT), getattr(properties, "MaximumPacketSize", None)
        )
        if not self._accepted.done():
            self._accepted.set_result(bool(flags.session_present))

    def _disconnected(
        self, _client: Client, _data: object, flags: DisconnectFlags, code: ReasonCode, _properties: Properties | None
    ) -> None:
        if self._refusal is not None:
            self.end(self._refusal)
        elif flags.is_disconnect_packet_from_server:
            self.end(TransportError(f"{self._settings.address} ended the connection: {code}"))
        else:
            self._lose(self._fault.text or str(code))

    def _lose(self, fault: str) -> None:
        self.end(TransportError(explain_loss(self._settings, self._accepted.done(), self._closing, fault)))

    def _answered(self, number: int, codes: list[ReasonCode]) -> None:
        waiting = self._answers.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(codes)

    def _arrived(self, _client: Client, _data: object, raw: MQTTMessage) -> None:
        """Take a message that was too large to be read at once."""
        try:
            topic = raw.topic
        except UnicodeDecodeError:
            topic = "\N{REPLACEMENT CHARACTER}"  # no topic of ours, so the handler refuses it like any other
        self._published_to_us(Published(topic, bytes(raw.payload), raw.qos, raw.retain, raw.dup, raw.mid))

    def _published_to_us(self, it: Published) -> None:
        acknowledge = functools.partial(self._acknowledge, it.number) if it.qos else None
        self._on_message(Message(it.topic, it.payload, it.qos, it.retain, it.duplicate, acknowledge))

    def _acknowledge(self, number: int) -> None:
        if not self.ended.done():
            self._sock.append(write_puback(number))
            self._write_soon()
