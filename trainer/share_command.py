"""`ecg-trainer share`: a bundle to the Hugging Face format and back, in a folder or in a repository of the hub."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile, copytree
from typing import TYPE_CHECKING

from edge.cli.output import EXIT_OK, emit_json, say
from edge.cli.parsing import add_command
from edge.errors import BundleError, ConfigError
from edge.runtime.bundle import Bundle, load_bundle, write_manifest
from edge.runtime.manifest import MANIFEST_NAME
from trainer.card.write import CARD_NAME, PLOTS_NAME
from trainer.hub import CONFIG_NAME, EcgClassifier, fetched, shared_bundle
from trainer.hub_card import LICENCE, README_NAME, own_part

if TYPE_CHECKING:
    from edge.cli.parsing import Subparsers

REPLACED = ["*.onnx", "plots/*"]
"""What of an earlier bundle a new one may not have: the rest is written over."""
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def add_parser(subparsers: Subparsers) -> None:
    """Add `share`."""
    parser = add_command(
        subparsers,
        "share",
        run,
        "write a bundle in the Hugging Face format, or make a bundle of one",
        f"{CONFIG_NAME} (front-end, calibration, thresholds), model.safetensors, the graphs and {README_NAME}; no "
        "pickle is written, fetched or read. user/repo means a repository of the hub unless a folder of that name, or "
        "one called user, is here; its token is the one of `hf auth login`.",
        [
            "ecg-trainer share bundles/mine --to shared/",
            "ecg-trainer share bundles/mine --to user/ecg-mamba",
            "ecg-trainer share --from shared/ --out bundles/theirs",
        ],
    )
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="default: the one that ships")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", metavar="DIR|user/repo", help="where it goes; what was shared there before is replaced")
    where.add_argument("--from", dest="source", metavar="DIR|user/repo", help="where it comes from")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of the repository, with --from")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the bundle to make, with --from")
    parser.add_argument("--licence", default=LICENCE, metavar="SPDX", help="of the weights (default: %(default)s)")
    parser.add_argument("--public", action="store_true", help="let everybody see a repository that is new")


def run(args: argparse.Namespace) -> int:
    """Share a bundle or take one."""
    if args.source is not None:
        return _take(args)
    if args.out is not None:
        raise ConfigError("share", ("--out belongs to --from; --to says where a bundle goes",))
    model, card = EcgClassifier.of_bundle(load_bundle(args.bundle)), {"licence": args.licence}
    if is_repository(args.to):
        result: dict[str, object] = {"url": _pushed(model, args.to, card, private=not args.public)}
    else:
        folder = Path(args.to)
        with replaced(folder, CONFIG_NAME) as new:
            model.save_pretrained(new, model_card_kwargs=card)
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        result = {"folder": folder, "files": files}
    if args.json:
        emit_json({**result, "model": _named(model.bundle)})
    else:
        say(f"wrote {result.get('url', args.to)}")
    return EXIT_OK


def is_repository(text: str) -> bool:
    """Whether a name means a repository of the hub, and not a folder that is here or would be."""
    path = Path(text)
    return REPOSITORY.fullmatch(text) is not None and not path.exists() and not path.parent.exists()


@contextmanager
def replaced(folder: Path, marker: str) -> Iterator[Path]:
    """Give a new folder that takes the place of this one when all went well.

    Raises BundleError when a folder is there that has other things in it than one with this marker would, or when it
    cannot be written.
    """
    if folder.exists() and not (folder / marker).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BundleError(folder, f"is there already and has no {marker}; choose another place")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            new = Path(scratch, "new")
            new.mkdir()
            yield new
            if folder.exists():
                folder.rename(Path(scratch, "old"))
            new.rename(folder)
    except OSError as error:
        raise BundleError(folder, f"cannot be written: {error.strerror or error}") from None


def _pushed(model: EcgClassifier, repository: str, card: dict[str, str], private: bool) -> str:
    """Upload through the mixin and return the address; what the hub refuses is one line."""
    try:
        url = model.push_to_hub(repository, private=private, model_card_kwargs=card, delete_patterns=REPLACED)
        return str(url)
    except (OSError, ValueError) as error:
        raise BundleError(Path(repository), f"cannot be uploaded: {str(error).splitlines()[0]}") from None


def _take(args: argparse.Namespace) -> int:
    if args.out is None or args.bundle is not None:
        raise ConfigError("share", ("--from needs --out DIR for the bundle it makes, and no BUNDLE",))
    if is_repository(args.source):
        folder = fetched(args.source, revision=args.revision)
    elif args.revision is not None:
        raise ConfigError("share", ("--revision is of a repository of the hub, not of a folder",))
    else:
        folder = Path(args.source)
    shared = shared_bundle(folder)
    EcgClassifier.of_bundle(shared)
    with replaced(args.out, MANIFEST_NAME) as new:
        _write_bundle(shared, new)
    bundle = load_bundle(args.out)
    if args.json:
        emit_json({"bundle": bundle.path, "files": bundle.manifest.files, "model": _named(bundle)})
    else:
        say(f"wrote {bundle.path}: {bundle.manifest.name} {bundle.manifest.version}, {bundle.manifest.kind}")
    return EXIT_OK


def _write_bundle(shared: Bundle, out: Path) -> None:
    """Write a bundle's files, its manifest and its card."""
    for name in shared.manifest.files:
        copyfile(shared.path / name, out / name)
    write_manifest(out, shared.manifest)
    readme, plots = shared.path / README_NAME, shared.path / PLOTS_NAME
    if readme.is_file():
        (out / CARD_NAME).write_text(own_part(readme.read_text(encoding="utf-8")), encoding="utf-8")
    if plots.is_dir():
        copytree(plots, out / PLOTS_NAME)


def _named(bundle: Bundle) -> dict[str, str]:
    manifest = bundle.manifest
    return {"name": manifest.name, "version": manifest.version, "kind": manifest.kind, "hash": manifest.model_hash}
