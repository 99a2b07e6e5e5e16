"""`ecg-edge replay`: recordings as live devices."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import add_command, count, positive
from edge.errors import LeadsError, RecordError, TopicError
from edge.replay.device import ENCODERS
from edge.replay.patient import simulate
from edge.replay.perturb import Network, resampled, with_gain, with_lead_off, with_noise
from edge.replay.records import Recording, read_recording
from edge.replay.session import Plan, play_devices
from edge.signal.leads import LeadMap
from edge.stream.topics import RESERVED_DEVICES, check_identifier
from edge.stream.wire import MAX_CHUNK_SECONDS

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers

SIMULATED_RATE_HZ = 500
DEFAULT_PORT = 1883


def add_parser(subparsers: Subparsers) -> None:
    """Add `replay`."""
    parser = add_command(
        subparsers,
        "replay",
        run,
        "play WFDB records as live devices over MQTT",
        "Records are played one after another; Ctrl-C ends it. Records with fewer than twelve leads are sent as they "
        "are and declared unfit by the monitor.",
        [
            "ecg-edge replay ptb-xl/records100/00000/00001_lr --device bed-1",
            "ecg-edge replay mitdb/100 --speed 10 --json",
            "ecg-edge replay RECORD RECORD --between session --loss 0.01 --reorder 0.05 --jitter-ms 300",
            "ecg-edge replay RECORD --noise nstdb/em --snr-db 6 --lead-off V3",
            "ecg-edge replay --simulate 60 --devices 4 --loop",
        ],
    )
    parser.add_argument("records", nargs="*", type=Path, metavar="RECORD", help="WFDB records, without ending")
    parser.add_argument("--simulate", type=positive, metavar="SECONDS", help="play a simulated patient (not real ECG)")
    where = parser.add_argument_group("where to")
    where.add_argument("--broker", type=_address, default=("127.0.0.1", DEFAULT_PORT), metavar="HOST[:PORT]",
                       help="the MQTT broker (default: 127.0.0.1:1883)")  # fmt: skip
    where.add_argument("--device", default="replay", metavar="NAME", help="name of the device (default: replay)")
    where.add_argument("--devices", type=count, default=1, metavar="N", help="play on N devices, NAME-1 to NAME-N")
    pace = parser.add_argument_group("how")
    pace.add_argument("--speed", type=positive, default=1.0, metavar="X", help="ECG seconds per second (default: 1)")
    pace.add_argument(
        "--chunk-ms", type=_chunk_ms, default=200.0, metavar="MS", help="of ECG in a chunk (default: 200)"
    )
    pace.add_argument("--encoding", choices=tuple(ENCODERS), default="msgpack", help="of payloads (default: msgpack)")
    pace.add_argument("--between", choices=("crossfade", "session"), default="crossfade",
                      help="one record fades into the next, or begins a session (default: crossfade)")  # fmt: skip
    pace.add_argument("--loop", action="store_true", help="begin again at the end, until Ctrl-C")
    trouble = parser.add_argument_group("trouble on request")
    trouble.add_argument("--jitter-ms", type=_not_negative, default=0.0, metavar="MS", help="come up to this late")
    trouble.add_argument("--loss", type=_share, default=0.0, metavar="P", help="chance of a chunk to be lost")
    trouble.add_argument("--duplicate", type=_share, default=0.0, metavar="P", help="chance to come twice")
    trouble.add_argument("--reorder", type=_share, default=0.0, metavar="P", help="chance to come after the next one")
    trouble.add_argument("--noise", type=Path, metavar="RECORD", help="WFDB record to add (nstdb's bw, em, ma)")
    trouble.add_argument("--snr-db", type=float, default=12.0, metavar="DB", help="signal over noise (default: 12)")
    trouble.add_argument(
        "--lead-off", action="append", default=[], metavar="LEAD", help="take a lead off; may be repeated"
    )
    trouble.add_argument("--gain", type=positive, default=1.0, metavar="X", help="so many times as large (default: 1)")
    trouble.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Play until the records end or somebody interrupts."""
    host, port = args.broker
    plan = Plan(
        host,
        port,
        speed=args.speed,
        chunk_s=args.chunk_ms / 1000,
        encode=ENCODERS[args.encoding],
        new_sessions=args.between == "session",
        loop=args.loop,
        network=Network(args.loss, args.duplicate, args.reorder, args.jitter_ms / 1000, args.seed),
    )
    playlists = playlists_of(args)
    unfit = report(next(iter(playlists.values())))
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    sent = play_devices(plan, playlists, stop)
    if args.json:
        emit_json(
            {
                "devices": {name: asdict(done) for name, done in sent.items()},
                "sources": {name: [r.source for r in recordings] for name, recordings in playlists.items()},
                "simulated": any(r.simulated for recordings in playlists.values() for r in recordings),
                "unfit": unfit,
            }
        )
    else:
        total = sum(done.chunks for done in sent.values())
        say(f"{len(sent)} devices sent {total} chunks, {sum(done.bytes for done in sent.values()):,} bytes")
    return EXIT_OK


def playlists_of(args: argparse.Namespace) -> dict[str, Sequence[Recording]]:
    """Return what each device plays, trouble included; each simulated device is a patient of its own.

    Raises RecordError when there is nothing to play or a record cannot be read.
    """
    if not args.records and args.simulate is None:
        raise RecordError("nothing to play: name a RECORD, or say --simulate SECONDS")
    names = device_names(args.device, args.devices)
    recordings = [troubled(read_recording(path), args) for path in args.records]
    if args.simulate is None:
        return dict.fromkeys(names, recordings)
    return {
        name: [*recordings, troubled(simulate(args.simulate, SIMULATED_RATE_HZ, args.seed + number), args)]
        for number, name in enumerate(names)
    }


def troubled(recording: Recording, args: argparse.Namespace) -> Recording:
    """Return a recording with the noise, the lost leads and the gain that were asked for."""
    if args.noise is not None:
        noise = resampled(read_recording(args.noise), recording.rate_hz)
        recording = with_noise(recording, noise, args.snr_db, args.seed)
    if args.lead_off:
        recording = with_lead_off(recording, args.lead_off)
    return recording if args.gain == 1 else with_gain(recording, args.gain)


def report(recordings: Sequence[Recording]) -> dict[str, list[str]]:
    """Say what is played, and return record → missing leads for those the twelve-lead model cannot take."""
    unfit = {}
    for recording in recordings:
        say(f"{recording.source}: {recording.seconds:.0f} s, {len(recording.leads)} leads at {recording.rate_hz} Hz")
        try:
            LeadMap.between(recording.leads)
        except LeadsError as error:
            unfit[recording.name] = list(error.missing)
            say(f"  {error}")
    return unfit


def device_names(name: str, count: int) -> list[str]:
    """Return the names of the devices; raises TopicError for one the contract does not allow."""
    names = [name] if count == 1 else [f"{name}-{number + 1}" for number in range(count)]
    for each in names:
        check_identifier(each, "device")
        if each in RESERVED_DEVICES:
            raise TopicError(f"device name {each!r} is reserved; choose another with --device")
    return names


def _chunk_ms(text: str) -> float:
    """Read how long a chunk is: what a monitor accepts."""
    value = positive(text)
    if value > MAX_CHUNK_SECONDS * 1000:
        raise argparse.ArgumentTypeError(f"a chunk holds at most {MAX_CHUNK_SECONDS} s")
    return value


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if text.count(":") == 1 else (text, "", "")
    if not host or (port and not (port.isdecimal() and 1 <= int(port) <= 65535)):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST or HOST:PORT")
    return host, int(port or DEFAULT_PORT)


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must lie between 0 and 1")
    return value
