"""The transport of the daemon: paho-mqtt 2 on the asyncio loop, kept connected."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence

import structlog

from edge.daemon.backoff import full_jitter_s
from edge.daemon.dial import dial
from edge.daemon.paho_link import PahoLink
from edge.daemon.transport import BrokerSettings, ConnectionState, Message, QoS, Subscription, Will
from edge.errors import TransportError

STABLE_AFTER_S = 10.0
"""A connection that lasted so long ends the growth of the pauses; a broker that throws us out at once does not."""

_RANDOM = secrets.SystemRandom().random
_log = structlog.get_logger()


class PahoTransport:
    """Implements `edge.daemon.transport.Transport`.

    At every connect, in this order: CONNECT with the will, the birth, the subscriptions; only then CONNECTED. Messages
    that the broker kept for the session arrive from the accepted CONNECT on.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        on_message: Callable[[Message], None],
        *,
        on_state: Callable[[ConnectionState], None] | None = None,
        subscriptions: Sequence[Subscription] = (),
        will: Will | None = None,
        birth: Callable[[], bytes] | None = None,
    ) -> None:
        """Describe the connection; `run` makes it.

        on_message: called for every message, quickly, and acknowledges it now or later. One that raises is a defect:
            it is logged, and the message acknowledged, since it would come again and raise again.
        on_state: called at every change of state.
        birth: gives the payload that revokes the will, published at every connect with the will's topic, QoS and
            retain flag; needs a will.
        """
        if birth is not None and will is None:
            raise ValueError("a birth needs a will: it is published on the will's topic")
        self._settings = settings
        self._on_message = on_message
        self._on_state = on_state
        self._subscriptions = tuple(subscriptions)
        self._will = will
        self._birth = birth
        self._state = ConnectionState.STOPPED
        self._problem: TransportError | None = None
        self._dropped = 0
        self._clean_start = settings.clean_start
        self._link: PahoLink | None = None
        self._told: dict[str, str] = {}

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands now."""
        return self._state

    @property
    def problem(self) -> TransportError | None:
        """Why there is no connection; None while there is one and before the first attempt has failed."""
        return self._problem

    @property
    def dropped(self) -> int:
        """How many QoS 0 messages were thrown away, absent or blocked."""
        return self._dropped

    async def run(self) -> None:
        """Connect and keep connected until cancelled; then disconnect cleanly, so that no will is published."""
        loop = asyncio.get_running_loop()
        attempt = 0
        try:
            while True:
                self._enter(ConnectionState.CONNECTING)
                begun = loop.time()
                self._problem = await self._connection()
                if loop.time() - begun > self._settings.connect_timeout_s + STABLE_AFTER_S:
                    attempt = 0
                    self._told.clear()
                pause_s = self._pause_s(attempt)
                self._tell_once("no connection to the broker", str(self._problem), retry_in_s=round(pause_s, 2))
                self._enter(ConnectionState.WAITING)
                await asyncio.sleep(pause_s)
                attempt += 1
        finally:
            self._enter(ConnectionState.STOPPED)

    async def publish(self, topic: str, payload: bytes, qos: QoS = 0, retain: bool = False) -> None:
        """Publish one message as the Protocol says: QoS 1 until its PUBACK, QoS 0 as far as there is room."""
        if qos == 0:
            if self._link is None or not self._link.publisher.send(topic, payload, retain):
                self._dropped += 1
        elif self._link is None:
            raise TransportError(f"not connected to {self._settings.address}: {self._problem or 'still connecting'}")
        else:
            await self._link.publisher.publish(topic, payload, retain)

    async def _connection(self) -> TransportError:
        """Make one connection, keep it to its end and return why it ended or was never made."""
        try:
            sock = await dial(self._settings)
        except TransportError as error:
            return error
        link = PahoLink(self._settings, sock, self._will, self._clean_start, self._deliver)
        try:
            session_present = await link.open()
            self._clean_start = False
            await self._greet(link)
            link.established()
            self._problem = None
            _log.info("connected to the broker", broker=self._settings.address, session_present=session_present)
            self._enter(ConnectionState.CONNECTED)
            await asyncio.wait([link.ended])
            return link.ended.result()
        except TransportError as error:
            link.end(error)  # a birth may be out, but we are not online
            return error
        finally:
            self._link = None
            await link.close()

    async def _greet(self, link: PahoLink) -> None:
        """Publish the birth before anyone else publishes, then subscribe.

        Others may publish while the birth's PUBACK is on its way: what the broker kept for us already comes in, and
        what is made of it should not be thrown away.
        """
        self._link = link  # nobody else runs until the birth is with paho
        if self._will is not None and self._birth is not None:
            will, payload = self._will, self._birth()
            if will.qos == 0:
                link.publisher.send(will.topic, payload, will.retain)
            else:
                await link.publisher.publish(will.topic, payload, will.retain)
        if self._subscriptions:
            await link.subscribe(self._subscriptions)

    def _pause_s(self, attempt: int) -> float:
        return full_jitter_s(attempt, self._settings.reconnect_min_s, self._settings.reconnect_max_s, _RANDOM)

    def _deliver(self, message: Message) -> None:
        try:
            self._on_message(message)
        except Exception as error:
            self._tell_once("the message handler failed", type(error).__name__, topic=message.topic, exc_info=True)
            message.ack()

    def _enter(self, state: ConnectionState) -> None:
        if state is self._state:
            return
        self._state = state
        if self._on_state is not None:
            try:
                self._on_state(state)
            except Exception as error:
                self._tell_once("the state handler failed", type(error).__name__, state=state.value, exc_info=True)

    def _tell_once(self, event: str, problem: str, **fields: object) -> None:
        """Warn of a problem; of the same one again only for those who debug."""
        repeated = self._told.get(event) == problem
        self._told[event] = problem
        (_log.debug if repeated else _log.warning)(event, problem=problem, **fields)
