"""The reader of packets: whatever way the network cuts them, each goes to whom it belongs, whole and in order."""

from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.daemon.packet_reader import WHOLE_LIMIT_BYTES, PacketReader
from edge.daemon.socket_buffer import SocketBuffer
from edge.stream.mqtt_packets import write_packet, write_puback, write_publish

PINGRESP, PUBLISH_QOS_2 = 0xD0, 0x34


class Reading:
    """A reader on one end of a socket; paho's part is to take what it is lent in pieces of seven bytes."""

    def __init__(self, mine):
        self.sock = SocketBuffer(mine)
        self.by_paho = b""
        self.end_seen = 0
        self.messages = []
        self.acknowledged = []
        self.reader = PacketReader(self.sock, True, self._paho, self.messages.append, self._acknowledge)

    def _acknowledge(self, number, code):
        self.acknowledged.append((number, code))

    def _paho(self):
        with contextlib.suppress(BlockingIOError):
            while part := self.sock.recv(7):
                self.by_paho += part
            self.end_seen += 1
        return True


@contextlib.contextmanager
def reading():
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    with mine, theirs:
        yield Reading(mine), theirs


def puback(number, code):
    """Return a PUBACK as a broker writes it: with a reason code only where there is something to say."""
    return write_puback(number) if code == 0 else write_packet(0x40, number.to_bytes(2, "big"), bytes([code]))


kinds = st.one_of(
    st.binary(max_size=300).map(lambda payload: ("message", write_publish("a/b", payload, False, True))),
    st.tuples(st.integers(1, 0xFFFF), st.sampled_from([0, 0x10, 0x97])).map(lambda it: ("puback", puback(*it))),
    st.binary(max_size=200).map(lambda body: ("paho", write_packet(PINGRESP, body))),
    st.binary(max_size=200).map(lambda body: ("paho", write_packet(PUBLISH_QOS_2, b"\0\x01a\0\x01", body))),
)


@settings(deadline=None)
@given(packets=st.lists(kinds, max_size=12), cuts=st.data(), limit=st.integers(1, 4))
def test_packets_in_any_pieces_go_whole_and_in_order_to_whom_they_belong(packets, cuts, limit):
    stream = b"".join(packet for _, packet in packets)
    with reading() as (it, peer):
        at = 0
        while at < len(stream):
            size = cuts.draw(st.integers(1, 400))
            peer.sendall(stream[at : at + size])
            at += size
            while it.reader.read(limit):
                pass
    assert it.by_paho == b"".join(packet for kind, packet in packets if kind == "paho")
    assert [write_publish(m.topic, m.payload, False, True) for m in it.messages] == [
        packet for kind, packet in packets if kind == "message"
    ]
    assert [puback(*it) for it in it.acknowledged] == [packet for kind, packet in packets if kind == "puback"]


def test_a_large_message_is_collected_by_paho_while_it_comes():
    large = write_publish("a/b", bytes(2 * WHOLE_LIMIT_BYTES), False, True)
    small = write_publish("a/b", b"small", False, True)
    with reading() as (it, peer):
        for at in range(0, len(large), 5000):
            peer.sendall(large[at : at + 5000])
            while it.reader.read(32):
                pass
            assert len(it.by_paho) == min(len(large), at + 5000)
        peer.sendall(small)
        it.reader.read(32)
    assert it.by_paho == large
    assert [message.payload for message in it.messages] == [b"small"]


def test_a_reader_gives_others_their_turn():
    with reading() as (it, peer):
        peer.sendall(b"".join(write_publish("a/b", b"%d" % n, False, True) for n in range(10)))
        assert it.reader.read(4)
        assert len(it.messages) == 4
        assert it.reader.read(4)
        assert not it.reader.read(4)
        assert [message.payload for message in it.messages] == [b"%d" % n for n in range(10)]


def test_paho_is_told_of_the_end_once_everything_before_it_is_read():
    with reading() as (it, peer):
        peer.sendall(write_publish("a/b", b"last", False, True) + write_packet(PINGRESP))
        peer.close()
        assert not it.reader.read(32)
        assert not it.reader.read(32)
    assert (len(it.messages), it.by_paho, it.end_seen) == (1, write_packet(PINGRESP), 1)


def test_what_is_no_mqtt_is_left_to_paho():
    with reading() as (it, peer):
        peer.sendall(b"\xff\xff\xff\xff\xff\xff\xff")
        it.reader.read(32)
    assert it.by_paho[:5] == b"\xff" * 5


def test_a_message_that_contradicts_itself_is_refused():
    with reading() as (it, peer):
        peer.sendall(write_packet(0x30, b"\0\x09a"))
        with pytest.raises(ValueError, match="shorter"):
            it.reader.read(32)
