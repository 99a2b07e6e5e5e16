"""The socket that reads ahead and gathers: not a byte is lost, doubled or moved, however the network cuts them."""

from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.daemon.socket_buffer import GATHERED_LIMIT_BYTES, READ_AHEAD_BYTES, SocketBuffer


@contextlib.contextmanager
def connected(room_bytes=1 << 16):
    """A buffered socket and the plain one at its other end, neither of which blocks."""
    mine, theirs = socket.socketpair()
    for sock in (mine, theirs):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room_bytes)
    with mine, theirs:
        yield SocketBuffer(mine), theirs


def all_of(receive):
    """Everything that is there now."""
    received = b""
    with contextlib.suppress(BlockingIOError):
        while part := receive(4096):
            received += part
    return received


@settings(deadline=None)
@given(
    parts=st.lists(st.binary(min_size=1, max_size=300), max_size=30), sizes=st.lists(st.integers(1, 200), min_size=1)
)
def test_what_is_lent_is_read_in_any_sizes_asked_for_and_no_byte_more(parts, sizes):
    with connected() as (buffer, peer):
        read = b""
        for number, part in enumerate(parts):
            peer.sendall(part + b"kept back")
            assert buffer.fill()
            buffer.lend(len(part))
            with contextlib.suppress(BlockingIOError):
                read += buffer.recv(sizes[number % len(sizes)])
            read += all_of(buffer.recv)
            received, taken = buffer.unread()
            assert received[taken:] == b"kept back"
            buffer.skip(len(b"kept back"))
        assert read == b"".join(parts)
        assert not buffer.fill()


def test_what_comes_later_is_lent_before_it_is_there():
    with connected() as (buffer, peer):
        buffer.lend(4)
        with pytest.raises(BlockingIOError):
            buffer.recv(4)
        peer.sendall(b"abcdef")
        assert buffer.fill()
        assert (buffer.recv(9), buffer.lent_bytes, buffer.unread()) == (b"abcd", 0, (b"abcdef", 4))


def test_a_socket_that_gave_all_that_was_asked_may_hold_more():
    with connected(room_bytes=1 << 20) as (buffer, peer):
        peer.sendall(bytes(READ_AHEAD_BYTES + 1))
        assert (buffer.fill(), buffer.more) == (True, True)
        assert (buffer.fill(), buffer.more) == (True, False)


def test_the_end_of_the_stream_comes_after_everything_in_it_and_once():
    with connected() as (buffer, peer):
        peer.sendall(b"abc")
        peer.shutdown(socket.SHUT_WR)
        buffer.lend(9)
        assert buffer.fill()
        assert [buffer.recv(2), buffer.ended] == [b"ab", False]
        assert buffer.fill()
        assert [buffer.recv(2), buffer.ended, buffer.recv(2)] == [b"c", True, b""]
        assert not buffer.fill()


@settings(deadline=None)
@given(parts=st.lists(st.binary(min_size=1, max_size=20_000), max_size=20))
def test_what_is_sent_arrives_once_and_in_order_past_a_peer_that_is_slow_to_read(parts):
    with connected(room_bytes=4096) as (buffer, peer):
        arrived = b""
        for part in parts:
            while True:
                try:
                    assert buffer.send(part) == len(part)
                    break
                except BlockingIOError:
                    arrived += all_of(peer.recv)
                    buffer.flush()
        while not buffer.flush():
            arrived += all_of(peer.recv)
        assert arrived + all_of(peer.recv) == b"".join(parts)


def test_a_blocked_socket_takes_nothing_more_until_it_is_flushed():
    with connected(room_bytes=4096) as (buffer, peer):
        with contextlib.suppress(BlockingIOError):
            for _ in range(1000):
                buffer.send(bytes(GATHERED_LIMIT_BYTES))
        with pytest.raises(BlockingIOError):
            buffer.send(b"more")
        while not buffer.flush():
            all_of(peer.recv)
        assert buffer.send(b"more") == 4


def test_a_packet_is_taken_however_much_waits():
    with connected(room_bytes=4096) as (buffer, peer):
        with contextlib.suppress(BlockingIOError):
            for _ in range(1000):
                buffer.send(bytes(GATHERED_LIMIT_BYTES))
        waiting = buffer.unsent_bytes
        buffer.append(b"packet")
        assert buffer.unsent_bytes == waiting + 6
        arrived = b""
        while not buffer.flush():
            arrived += all_of(peer.recv)
        assert (arrived + all_of(peer.recv))[-6:] == b"packet"
        assert buffer.unsent_bytes == 0


def test_closing_sends_what_was_gathered():
    with connected() as (buffer, peer):
        buffer.send(b"goodbye")
        buffer.close()
        assert (all_of(peer.recv), buffer.fileno()) == (b"goodbye", -1)


def test_a_connection_that_is_gone_is_told_to_who_flushes():
    with connected() as (buffer, peer):
        peer.close()
        buffer.send(b"hello")
        with pytest.raises(BrokenPipeError):
            buffer.flush()
