"""Logs: key-value events, coloured on a terminal, JSON lines elsewhere, with priorities for the journal.

Everything goes to standard error; the records of libraries that use `logging` come out in the same form.
"""

from __future__ import annotations

import logging
import sys
from typing import IO

import structlog
from structlog.typing import Processor

from edge.journal import is_journal

SYSLOG_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
DEBUG_PRIORITY = 7


def set_up_logging(level: str = "info", form: str = "auto", stream: IO[str] | None = None) -> None:
    """Send structlog's and logging's records to `stream` (standard error) in one form.

    level: debug, info, warning or error. form: console, json, or auto (console on a terminal). Where the stream is
    the systemd journal each line begins with its priority, which the journal takes off again (sd-daemon(3)).
    """
    stream = sys.stderr if stream is None else stream
    renderers: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if form == "console" or (form == "auto" and stream.isatty()):
        renderers.append(structlog.dev.ConsoleRenderer(colors=stream.isatty()))
    else:
        renderers += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *common, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a reload may change the level and the form
    )
    handler = logging.StreamHandler(stream)
    formatter = structlog.stdlib.ProcessorFormatter(processors=renderers, foreign_pre_chain=common)
    handler.setFormatter(_JournalFormatter(formatter) if is_journal(stream) else formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())


class _JournalFormatter(logging.Formatter):
    """Puts the syslog priority before every line of another formatter's output."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        priority = next((p for level, p in SYSLOG_PRIORITIES if record.levelno >= level), DEBUG_PRIORITY)
        return "\n".join(f"<{priority}>{line}" for line in self._inner.format(record).split("\n"))
