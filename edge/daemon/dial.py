"""Opening and ending a TCP or TLS connection without blocking the loop, cancellable at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Sequence
from threading import Thread
from typing import Any

from edge.daemon.transport import BrokerSettings, TlsSettings
from edge.errors import TransportError

_Found = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]
_Address = tuple[socket.AddressFamily, int, Any]  # family, protocol number, address of that family


async def dial(settings: BrokerSettings) -> socket.socket:
    """Return a connected, non-blocking socket, its TLS handshake done where TLS is asked for.

    Raises TransportError that says what is wrong and what to do, at the latest after connect_timeout_s.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settings.connect_timeout_s
    context = await loop.run_in_executor(None, tls_context, settings.tls) if settings.tls else None
    try:
        addresses = await _resolve(settings.host, settings.port, deadline)
        return await _first_that_answers(addresses, settings.host, context, deadline)
    except OSError as error:
        raise TransportError(_explain(error, settings)) from error


async def hang_up(sock: socket.socket, deadline: float) -> None:
    """Say that nothing follows and wait for the other side to close, throwing away what it still sends.

    Raises TimeoutError at the deadline (loop time), OSError when the connection breaks; the socket stays open.
    """
    sock.shutdown(socket.SHUT_WR)
    while True:
        await _ready(sock, deadline, to_write=False)
        if not sock.recv(1 << 16):
            return


def tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """Return a verifying client context; raises TransportError naming the file that can't be used. Reads files."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except OSError as error:
        raise TransportError(
            f"the authorities' file {tls.ca} cannot be used: {error}; it must be certificates in PEM"
        ) from error
    if tls.cert is not None:
        try:
            # Without a password given here, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(tls.cert, tls.key, password="")
        except OSError as error:
            files = f"the client's certificate {tls.cert} and key {tls.key or tls.cert}"
            raise TransportError(
                f"{files} cannot be used: {error}; they must be a certificate and its unencrypted key in PEM"
            ) from error
    return context


async def _resolve(host: str, port: int, deadline: float) -> list[_Address]:
    """Look a name up in a thread that nobody waits for: no cancellation reaches it, and it must not hold up an end."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_Found | OSError] = loop.create_future()
    Thread(target=_look_up, args=(host, port, loop, answer), name="resolve", daemon=True).start()
    await asyncio.wait([answer], timeout=max(0.0, deadline - loop.time()))
    if not answer.done():
        raise socket.gaierror(socket.EAI_AGAIN, "the name server does not answer")
    found = answer.result()
    if isinstance(found, OSError):
        raise found
    return [(family, proto, address) for family, _, proto, _, address in found]


def _look_up(
    host: str, port: int, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[_Found | OSError]
) -> None:  # fmt: skip
    found: _Found | OSError
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        found = error
    except UnicodeError as error:
        found = socket.gaierror(socket.EAI_NONAME, f"it is no host name ({error})")
    with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(_settle, answer, found)


def _settle(answer: asyncio.Future[_Found | OSError], found: _Found | OSError) -> None:
    if not answer.done():
        answer.set_result(found)


async def _first_that_answers(
    addresses: list[_Address], host: str, context: ssl.SSLContext | None, deadline: float
) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    for tried, address in enumerate(addresses):
        share_s = (deadline - loop.time()) / (len(addresses) - tried)  # a dead first address leaves time for the next
        try:
            return await _connect(address, host, context, loop.time() + share_s)
        except OSError as error:
            failure = error
    raise failure


async def _connect(address: _Address, host: str, context: ssl.SSLContext | None, deadline: float) -> socket.socket:
    family, proto, where = address
    sock = socket.socket(family, socket.SOCK_STREAM, proto)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        problem = sock.connect_ex(where)
        if problem == errno.EINPROGRESS:
            await _ready(sock, deadline, to_write=True)
            problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            raise OSError(problem, os.strerror(problem))
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            await _shake_hands(sock, deadline)
    except BaseException:
        sock.close()
        raise
    return sock


async def _shake_hands(sock: ssl.SSLSocket, deadline: float) -> None:
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(sock, deadline, to_write=False)
        except ssl.SSLWantWriteError:
            await _ready(sock, deadline, to_write=True)
        except ConnectionError as error:
            raise ssl.SSLError(error.errno, f"the handshake broke off ({error.strerror})") from error
        else:
            return


async def _ready(sock: socket.socket, deadline: float, *, to_write: bool) -> None:
    loop = asyncio.get_running_loop()
    seen: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if to_write else (loop.add_reader, loop.remove_reader)
    add(sock.fileno(), _set_once, seen)
    try:
        await asyncio.wait([seen], timeout=max(0.0, deadline - loop.time()))
    finally:
        remove(sock.fileno())
    if not seen.done():
        raise TimeoutError


def _set_once(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _explain(error: OSError, settings: BrokerSettings) -> str:
    where = settings.address
    if isinstance(error, ssl.SSLCertVerificationError):
        signer = settings.tls.ca if settings.tls and settings.tls.ca else "the system's certificate authorities"
        return f"the certificate of {where} is refused: {error.verify_message}; checked against {signer}"
    if isinstance(error, ssl.SSLError):
        fault = getattr(error, "reason", None) or error.strerror
        return f"no TLS with {where}: {fault}; is this port the broker's TLS listener?"
    if isinstance(error, socket.gaierror):
        return f"the broker's name {settings.host!r} cannot be resolved: {error.strerror}; check host and DNS"
    if isinstance(error, TimeoutError):
        return f"{where} does not answer within {settings.connect_timeout_s:g} s; check host, port and firewall"
    if isinstance(error, ConnectionRefusedError):
        return f"no broker listens at {where} (connection refused); is it running?"
    return f"no connection to {where}: {error.strerror or error}"
