"""Every error this package raises on purpose: one root, leaves that carry what went wrong as fields."""

from __future__ import annotations

from pathlib import Path


class EcgEdgeError(Exception):
    """Root of all expected errors: the command line prints its message in one line, without a traceback."""


class SignalError(EcgEdgeError):
    """Samples, rates or filters that the signal path cannot take."""


class LeadsError(SignalError):
    """The lead names of a stream do not cover the leads the model needs."""

    def __init__(self, missing: tuple[str, ...], given: tuple[str, ...]) -> None:
        self.missing = missing
        self.given = given
        super().__init__(
            f"leads {', '.join(missing)} are missing (given: {', '.join(given) or 'none'}); "
            "the stream is unfit for this model"
        )


class PayloadError(EcgEdgeError):
    """A message that cannot be read; `reason` is a short machine-readable word."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class TopicError(EcgEdgeError):
    """A topic or identifier outside the contract."""


class BundleError(EcgEdgeError):
    """A model bundle that is missing, damaged or of an unknown schema."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"model bundle {path}: {problem}")


class RuntimeUnavailableError(EcgEdgeError):
    """A model runtime that cannot be used on this machine."""

    def __init__(self, runtime: str, why: str) -> None:
        self.runtime = runtime
        self.why = why
        super().__init__(f"runtime '{runtime}' is not available: {why}")


class ConfigError(EcgEdgeError):
    """A configuration with one or more faults, all of them listed."""

    def __init__(self, source: str, problems: tuple[str, ...]) -> None:
        self.source = source
        self.problems = problems
        super().__init__(f"{source}: " + "; ".join(problems))


class TransportError(EcgEdgeError):
    """The MQTT broker cannot be reached or refuses this client."""


class MessageRefusedError(TransportError):
    """The MQTT broker does not take this one message, as it says or shows; others may fare better."""

    def __init__(self, address: str, topic: str, reason: str) -> None:
        self.topic = topic
        self.reason = reason
        super().__init__(f"{address} refused a message on {topic}: {reason}")


class EndpointError(EcgEdgeError):
    """The address of the HTTP endpoint cannot be listened on."""


class StorageError(EcgEdgeError):
    """The state directory or a database in it cannot be used."""


class DiskError(StorageError):
    """The disk is full, read-only or broken; what is on it may be whole."""


class MissingExtraError(EcgEdgeError):
    """A command whose packages were not installed: a device has none of the trainer's."""

    def __init__(self, extra: str, module: str) -> None:
        self.extra = extra
        self.module = module
        super().__init__(f"{module} is not installed; pip install 'ecg-edge[{extra}]'")


class RecordError(EcgEdgeError):
    """An ECG record that cannot be read."""
