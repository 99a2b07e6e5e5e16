"""The HTTP endpoint and the metrics it serves."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from edge.daemon import http as endpoint_module
from edge.daemon.http import Health, HttpEndpoint
from edge.daemon.metrics import CONTENT_TYPE, MAX_LABEL_VALUES, Metrics
from edge.errors import EndpointError

DEADLINE_S = 10.0


class Pipeline:
    """Stands for the daemon: a health that a test can change."""

    def __init__(self) -> None:
        self.healthy = True
        self.metrics = Metrics()

    def health(self) -> Health:
        return Health(self.healthy, {"streams": 3})


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


@pytest.fixture
def endpoint(pipeline: Pipeline) -> Iterator[HttpEndpoint]:
    served = HttpEndpoint("127.0.0.1", 0, pipeline.health, pipeline.metrics.render, CONTENT_TYPE)
    served.start()
    yield served
    served.stop()


def request(endpoint: HttpEndpoint, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=DEADLINE_S)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()


def test_health_is_200_while_healthy_and_503_otherwise(endpoint: HttpEndpoint, pipeline: Pipeline) -> None:
    status, kind, body = request(endpoint, "/healthz")
    assert (status, kind, json.loads(body)) == (200, "application/json", {"healthy": True, "streams": 3})
    pipeline.healthy = False
    status, _, body = request(endpoint, "/healthz")
    assert (status, json.loads(body)["healthy"]) == (503, False)


def test_metrics_are_in_prometheus_format(endpoint: HttpEndpoint, pipeline: Pipeline) -> None:
    pipeline.metrics.chunks.value += 3
    pipeline.metrics.scores.labels("ready").inc()
    pipeline.metrics.hop_latency_ms.observe(12)
    status, kind, body = request(endpoint, "/metrics")
    text = body.decode()
    assert status == 200
    assert kind.startswith("text/plain; version=")
    assert "ecg_edge_chunks_total 3.0" in text
    assert 'ecg_edge_scores_total{state="ready"} 1.0' in text
    assert 'ecg_edge_hop_latency_ms_bucket{le="20.0"} 1.0' in text


def test_labels_from_outside_are_bounded() -> None:
    metrics = Metrics()
    for number in range(10_000):
        metrics.payload_errors.inc(f"reason-{number}")
    lines = [
        line for line in metrics.render().decode().splitlines() if line.startswith("ecg_edge_payload_errors_total")
    ]
    assert len(lines) <= MAX_LABEL_VALUES + 1
    assert sum(float(line.rsplit(" ", 1)[1]) for line in lines) == 10_000


def test_other_paths_are_404_and_other_methods_refused(endpoint: HttpEndpoint) -> None:
    assert request(endpoint, "/../etc/passwd")[0] == 404
    assert request(endpoint, "/metrics", "POST")[0] == 501
    assert request(endpoint, "/metrics?x=1")[0] == 200


def test_a_fault_behind_a_route_is_an_answer_and_not_the_end(pipeline: Pipeline) -> None:
    def broken() -> bytes:
        raise ValueError("no metrics today")

    served = HttpEndpoint("127.0.0.1", 0, pipeline.health, broken, CONTENT_TYPE)
    served.start()
    try:
        status, _, body = request(served, "/metrics")
        assert status == 500
        assert b"no metrics today" not in body
        assert request(served, "/healthz")[0] == 200
    finally:
        served.stop()


def test_a_taken_port_is_one_clear_error(endpoint: HttpEndpoint, pipeline: Pipeline) -> None:
    with pytest.raises(EndpointError, match=rf"port {endpoint.port}.*http\.port"):
        HttpEndpoint("127.0.0.1", endpoint.port, pipeline.health, pipeline.metrics.render, CONTENT_TYPE)
    with pytest.raises(EndpointError, match="no-such-host"):
        HttpEndpoint("no-such-host.invalid", 0, pipeline.health, pipeline.metrics.render, CONTENT_TYPE)
    with pytest.raises(EndpointError, match=r"listen on \.\. "):
        HttpEndpoint("..", 0, pipeline.health, pipeline.metrics.render, CONTENT_TYPE)


def test_a_stopped_endpoint_frees_its_port_and_can_stop_without_having_started(pipeline: Pipeline) -> None:
    first = HttpEndpoint("127.0.0.1", 0, pipeline.health, pipeline.metrics.render, CONTENT_TYPE)
    port = first.port
    first.stop()
    second = HttpEndpoint("127.0.0.1", port, pipeline.health, pipeline.metrics.render, CONTENT_TYPE)
    second.start()
    assert request(second, "/healthz")[0] == 200
    second.stop()
    with pytest.raises(ConnectionRefusedError):
        request(second, "/healthz")


def test_silent_clients_hold_only_a_few_places_and_lose_them(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module._Handler, "timeout", 0.3)
    served = HttpEndpoint("127.0.0.1", 0, pipeline.health, pipeline.metrics.render, CONTENT_TYPE)
    served.start()
    address = ("127.0.0.1", served.port)
    idle = [socket.create_connection(address, DEADLINE_S) for _ in range(endpoint_module.MAX_CONCURRENT_REQUESTS + 4)]
    try:
        assert idle[-1].recv(1) == b"", "the client beyond the limit is hung up on"
        assert idle[0].recv(1) == b"", "a client that says nothing is hung up on after the timeout"
        for client in idle[1:]:
            assert client.recv(1) == b""
        assert request(served, "/healthz")[0] == 200
    finally:
        for client in idle:
            client.close()
        served.stop()


def test_clients_that_speak_byte_by_byte_lose_their_places_too(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "REQUEST_TIMEOUT_S", 0.5)
    served = HttpEndpoint("127.0.0.1", 0, pipeline.health, pipeline.metrics.render, CONTENT_TYPE)
    served.start()
    client = socket.create_connection(("127.0.0.1", served.port), DEADLINE_S)
    client.settimeout(0.1)
    try:
        for byte in itertools.cycle(b"x"):
            try:
                client.send(bytes([byte]))
                if client.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert request(served, "/healthz")[0] == 200
    finally:
        client.close()
        served.stop()
