"""`ecg-edge run`: the daemon, as systemd runs it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from edge.cli.output import EXIT_OK, emit_json
from edge.cli.parsing import add_command
from edge.daemon.config import Config
from edge.daemon.config_docs import settings
from edge.daemon.config_file import load_config
from edge.daemon.garbage import settle_garbage
from edge.daemon.logs import set_up_logging
from edge.daemon.node import Node, handle_signals
from edge.errors import EcgEdgeError

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers

RELOADABLE = ("alerts.", "streams.", "publish.", "node.log_")

SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter from another one. With Python's 5 ms the model's thread, back from a batch
of a few milliseconds, would wait as long again for the loop to let it on."""

log = structlog.get_logger(__name__)


def add_parser(subparsers: Subparsers) -> None:
    """Add `run`."""
    parser = add_command(
        subparsers,
        "run",
        run,
        "run the monitor: consume ECG streams, publish scores and alerts",
        "SIGHUP reads the configuration again, SIGTERM and Ctrl-C stop it with nothing lost.",
        ["ecg-edge run --config /etc/ecg-edge/ecg-edge.toml", "ECG_EDGE_CONFIG=ecg-edge.toml ecg-edge run"],
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file (default: $ECG_EDGE_CONFIG, else defaults)"
    )


def run(args: argparse.Namespace) -> int:
    """Run until a signal says stop; with --json say at the end what was done."""
    config = load_config(args.config)
    set_up_logging(config.node.log_level, config.node.log_format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    result = asyncio.run(_serve(config, args.config))
    if args.json:
        emit_json(result)
    return EXIT_OK


async def _serve(config: Config, path: Path | None) -> dict[str, object]:
    node = Node(config)
    handle_signals(node, lambda: _reload(node, path))
    collecting = asyncio.create_task(settle_garbage(), name="garbage")
    await node.run()
    collecting.cancel()
    return node.summary()


def _reload(node: Node, path: Path | None) -> None:
    """Read the configuration again; a faulty one is logged and changes nothing."""
    node.notify_reloading()
    try:
        before, config = dict(settings(node.config)), load_config(path)
        node.reload(config)
    except EcgEdgeError as error:
        log.error("reload_refused", problem=str(error))
    else:
        set_up_logging(config.node.log_level, config.node.log_format)
        changed = [key for key, value in settings(config) if before.get(key) != value]
        waiting = [key for key in changed if not key.startswith(RELOADABLE)]
        if config.streams.max_payload_bytes > node.largest_message_bytes:
            waiting.append("streams.max_payload_bytes")  # the broker keeps back what is larger than it was told
        log.info("reloaded", changed=changed, needs_restart=waiting)
    finally:  # or systemd waits for it until it gives the daemon up
        node.notify_ready()
