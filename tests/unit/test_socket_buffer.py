"""The socket that reads ahead and gathers: not a byte is lost, doubled or moved, however the network cuts them."""

from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.daemon.socket_buffer import GATHERED_LIMIT_BYTES, SocketBuffer


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
def test_what_arrives_is_read_in_any_sizes_asked_for(parts, sizes):
    with connected() as (buffer, peer):
        read = b""
        for number, part in enumerate(parts):
            peer.sendall(part)
            with contextlib.suppress(BlockingIOError):
                read += buffer.recv(sizes[number % len(sizes)])
        assert read + all_of(buffer.recv) == b"".join(parts)
        assert buffer.pending() == 0


def test_what_was_read_ahead_is_told():
    with connected() as (buffer, peer):
        peer.sendall(b"abcdef")
        assert (buffer.recv(2), buffer.pending()) == (b"ab", 4)


def test_the_end_of_the_stream_comes_after_everything_in_it():
    with connected() as (buffer, peer):
        peer.sendall(b"abc")
        peer.shutdown(socket.SHUT_WR)
        assert [buffer.recv(2), buffer.recv(2), buffer.recv(2)] == [b"ab", b"c", b""]


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
