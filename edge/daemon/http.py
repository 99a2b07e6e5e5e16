"""The small HTTP endpoint: /healthz and /metrics, in a thread of its own, for a probe and a scraper to read."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog

from edge.errors import EndpointError

REQUEST_TIMEOUT_S = 5.0
MAX_CONCURRENT_REQUESTS = 8
POLL_INTERVAL_S = 0.1

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Health:
    """What /healthz answers: 200 when healthy, else 503, with the details as JSON."""

    healthy: bool
    details: Mapping[str, object]


class HttpEndpoint:
    """Serves `health()` and `metrics()`; both are called in request threads, so they must only read.

    Raises EndpointError when the address cannot be listened on.
    """

    def __init__(
        self, host: str, port: int, health: Callable[[], Health], metrics: Callable[[], bytes], metrics_type: str
    ) -> None:
        routes = {"/healthz": lambda: _health_response(health()), "/metrics": lambda: Response(metrics(), metrics_type)}
        try:
            self._server = _Server(host, port, routes)
        except (OSError, OverflowError, UnicodeError) as error:
            raise EndpointError(
                f"HTTP endpoint cannot listen on {host} port {port}: {error}; "
                "change http.host or http.port, or set http.enabled = false"
            ) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_INTERVAL_S,), name="http-endpoint", daemon=True
        )

    @property
    def port(self) -> int:
        """The port listened on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port; returns within the poll interval."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


@dataclass(frozen=True)
class Response:
    """A body and how it is labelled."""

    body: bytes
    content_type: str
    status: HTTPStatus = HTTPStatus.OK


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    block_on_close = False  # a slow reader must not hold up the daemon's end

    def __init__(self, host: str, port: int, routes: Mapping[str, Callable[[], Response]]) -> None:
        self.routes = routes
        self._free = threading.BoundedSemaphore(MAX_CONCURRENT_REQUESTS)
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__((str(address[0]), int(address[1])), _Handler)

    def server_bind(self) -> None:
        """Bind without the reverse name lookup of the base class, which may hang without a resolver."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        """Start a thread for a request, or hang up when too many are running."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        hang_up = threading.Timer(REQUEST_TIMEOUT_S, _hang_up, [request])
        hang_up.daemon = True
        hang_up.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            hang_up.cancel()
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what a request ran into instead of printing it; a client that goes away is no error of ours."""
        log.debug("http_request_failed", client=str(client_address), exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server: _Server
    server_version = "ecg-edge"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer a known path; every other method is refused by the base class with 501."""
        route = self.server.routes.get(self.path.split("?", 1)[0])
        if route is None:
            self._send(Response(b"not found; try /healthz or /metrics\n", "text/plain", HTTPStatus.NOT_FOUND))
            return
        try:
            response = route()
        except Exception:  # a fault in a callable must reach the prober as an answer, whatever it is
            log.exception("http_route_failed", path=self.path)
            response = Response(b"internal error\n", "text/plain", HTTPStatus.INTERNAL_SERVER_ERROR)
        self._send(response)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: a scraper comes every few seconds."""

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(response.body)


def _hang_up(request: socket.socket) -> None:
    """End a request that takes its time byte by byte, so that its place is free for another."""
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _health_response(health: Health) -> Response:
    status = HTTPStatus.OK if health.healthy else HTTPStatus.SERVICE_UNAVAILABLE
    body = json.dumps({"healthy": health.healthy, **health.details}).encode() + b"\n"
    return Response(body, "application/json", status)
