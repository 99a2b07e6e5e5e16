"""A bundle as a model of the Hugging Face format: config.json, model.safetensors, a card, and the graphs a device runs.

    EcgClassifier.of_bundle(load_bundle()).save_pretrained("ecg-mamba")
    classifier = EcgClassifier.from_pretrained("ecg-mamba")       # or user/repo
    classifier.probabilities(samples_mv)                          # (records, samples, leads) → (records, classes)

`config.json` holds the bundle's whole manifest: front-end, calibration, thresholds, and the SHA-256 of every other
file, which are checked before anything is used. A pickle is neither fetched nor read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from shutil import copyfile, copytree
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from huggingface_hub import HfApi, ModelCard, PyTorchModelHubMixin, snapshot_download
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from edge import RESEARCH_USE_ONLY
from edge.errors import BundleError
from edge.runtime.base import calibrated
from edge.runtime.bundle import MANIFEST_LIMIT_BYTES, Bundle, read_file, sha256_of
from edge.runtime.manifest import WEIGHTS_NAME, Manifest
from edge.signal.frontend import process_records
from trainer.card.write import PLOTS_NAME
from trainer.checkpoint import model_from_bundle
from trainer.hub_card import LICENCE, README_NAME, card_of
from trainer.kinds import record_logits
from trainer.model import EcgMamba
from trainer.networks.windowed import Windowed

CONFIG_NAME = "config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
FETCHED = (CONFIG_NAME, README_NAME, WEIGHTS_NAME, "*.onnx", f"{PLOTS_NAME}/*.png", f"{PLOTS_NAME}/*/*.png")


class Config(msgspec.Struct, frozen=True):
    """What `config.json` holds; other tools may add to it."""

    manifest: Manifest
    model_type: Literal["ecg-edge"] = "ecg-edge"
    notice: str = RESEARCH_USE_ONLY


class EcgClassifier(nn.Module, PyTorchModelHubMixin):
    """A bundle's network in evaluation mode, and all that stands in its manifest.

    `forward` is the network's own: a streaming model takes samples and state and returns logits and state, a windowed
    one takes whole windows and returns logits. `probabilities` takes millivolts.
    """

    def __init__(self, bundle: Bundle, network: EcgMamba | Windowed) -> None:
        super().__init__()
        self.bundle = bundle
        self.network = network
        self._hub_mixin_config = msgspec.to_builtins(Config(bundle.manifest))

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> EcgClassifier:
        """Return a bundle's model; raises BundleError when it is none of the trainer's."""
        return cls(bundle, model_from_bundle(bundle)).eval()

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    def forward(self, *inputs: Any) -> Any:
        """Call the network."""
        return self.network(*inputs)

    def probabilities(self, samples_mv: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return calibrated probabilities (records, classes) of whole records (records, samples, leads) in millivolts.

        At the model's rate and in the order of its leads; each record from a cold start.
        """
        manifest = self.manifest
        x = process_records(manifest.frontend(), np.asarray(samples_mv, dtype=np.float64))
        return calibrated(manifest.calibration, record_logits(self.network, x, manifest.window_samples))

    def generate_model_card(self, *_: Any, licence: str = LICENCE, **__: Any) -> ModelCard:
        """Return README.md: metadata for the hub, how to use the model, and the bundle's own card."""
        return card_of(self.bundle, licence)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write everything but README.md, which the mixin asks for afterwards; raises BundleError."""
        self._require_unchanged()
        for name in self.manifest.files:
            copyfile(self.bundle.path / name, save_directory / name)
        plots = self.bundle.path / PLOTS_NAME
        if plots.is_dir():
            copytree(plots, save_directory / PLOTS_NAME, dirs_exist_ok=True)
        encoded = msgspec.json.format(msgspec.json.encode(Config(self.manifest)), indent=2)
        (save_directory / CONFIG_NAME).write_bytes(encoded + b"\n")

    def _require_unchanged(self) -> None:
        """Raise BundleError when the weights are not the bundle's any more: its graphs and figures would be lies."""
        network = self.network.network if isinstance(self.network, Windowed) else self.network
        own, stored = network.state_dict(), load_file(self.bundle.weights_path)
        if own.keys() != stored.keys() or not all(torch.equal(own[name].cpu(), stored[name]) for name in stored):
            raise BundleError(
                self.bundle.path,
                "the weights have changed since they were loaded, so graphs, thresholds and figures are not theirs; "
                "save a checkpoint and make a bundle of it with `ecg-export bundle`",
            )

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None, cache_dir: str | Path | None, force_download: bool,
        local_files_only: bool, token: str | bool | None, **_: Any,
    ) -> EcgClassifier:  # fmt: skip
        """Load a folder or a repository; what else a config.json holds besides the manifest is ignored."""
        folder = Path(model_id)
        if not folder.is_dir():
            folder = fetched(
                model_id, revision=revision, cache_dir=cache_dir, force_download=force_download,
                local_files_only=local_files_only, token=token,
            )  # fmt: skip
        return cls.of_bundle(shared_bundle(folder))


def shared_bundle(folder: Path) -> Bundle:
    """Read and check a folder of the Hugging Face format as a bundle, which it is but for the name of its manifest.

    Raises BundleError when it holds pickles instead of safetensors, no config.json of this project, or a file whose
    hash differs from the stated one.
    """
    _refuse_pickles(folder, [path.name for path in folder.iterdir()] if folder.is_dir() else [])
    raw = read_file(folder, CONFIG_NAME, MANIFEST_LIMIT_BYTES)
    try:
        manifest = msgspec.json.decode(raw, type=Config).manifest
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BundleError(folder, f"{CONFIG_NAME} is not one of ecg-edge's: {error}") from None
    problems = manifest.problems()
    if problems:
        raise BundleError(folder, f"{CONFIG_NAME}: " + "; ".join(problems))
    for name, expected in manifest.files.items():
        if sha256_of(folder, name) != expected:
            raise BundleError(folder, f"{name} does not have the SHA-256 that {CONFIG_NAME} states; refused")
    return Bundle(folder, manifest)


def fetched(repository: str, **how: Any) -> Path:
    """Download a repository of the hub, without any pickle in it, and return its folder; raises BundleError."""
    try:
        folder = Path(snapshot_download(repository, allow_patterns=list(FETCHED), **how))
        if not (folder / WEIGHTS_NAME).is_file() and not how.get("local_files_only"):
            names = HfApi().list_repo_files(repository, revision=how.get("revision"), token=how.get("token"))
            _refuse_pickles(Path(repository), names)
    except (OSError, ValueError) as error:
        raise BundleError(Path(repository), f"cannot be fetched: {str(error).splitlines()[0]}") from None
    return folder


def _refuse_pickles(source: Path, names: Iterable[str]) -> None:
    """Raise BundleError where weights come as nothing but pickles."""
    names = list(names)
    pickles = [name for name in names if PurePosixPath(name).suffix.lower() in PICKLES]
    if pickles and WEIGHTS_NAME not in names:
        raise BundleError(
            source,
            f"holds its weights as {', '.join(sorted(pickles))} alone: a pickle can run any program when it is read, "
            f"and is not; ask for {WEIGHTS_NAME}",
        )
