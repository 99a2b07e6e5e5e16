"""README.md of a shared model: metadata that a model hub reads, the bundle's own card, and how to use it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from edge.runtime.bundle import Bundle
from edge.runtime.manifest import RECURRENT, Manifest
from trainer.card.sources import read_sources
from trainer.card.write import CARD_NAME, write_card
from trainer.folds import folds_text

README_NAME = "README.md"
LIBRARY = "ecg-edge"
LICENCE = "apache-2.0"
DATASET = "ptb-xl"
USAGE_HEADING = "## Use it with ecg-edge"

MEASURED = {
    "macro_auc": ("roc_auc", "macro ROC-AUC"),
    "macro_auprc": ("average_precision", "macro average precision"),
    "macro_f1": ("f1", "macro F1 at the tuned thresholds"),
    "ece": ("expected_calibration_error", "expected calibration error"),
}
"""Figure of the manifest → what a hub calls it, and its name for people."""

USAGE = f"""\
{USAGE_HEADING}

```sh
ecg-trainer share --from . --out bundle         # this folder, or user/repo, becomes a bundle again
ecg-edge score path/to/record --bundle bundle
ecg-edge run --config ecg-edge.toml             # the monitor, with bundle = "path/to/bundle" under [model]
```

```python
from trainer.hub import EcgClassifier

classifier = EcgClassifier.from_pretrained(".")     # or user/repo
classifier.probabilities(samples_mv)                # (records, samples, leads) in mV → (records, classes)
```

`config.json` holds the bundle's manifest: the front-end's filter and scaling, calibration, thresholds, and the SHA-256
of every other file. `model.onnx` is what a device runs.
"""


def card_of(bundle: Bundle, licence: str) -> ModelCard:
    """Return the card of a bundle: its own where one was written, else one made of its manifest."""
    front = f"---\n{metadata_of(bundle.manifest, licence).to_yaml()}\n---\n"
    return ModelCard(f"{front}\n{_own_card(bundle).rstrip()}\n\n{USAGE}")


def own_part(readme: str) -> str:
    """Return the bundle's own card out of such a README."""
    return ModelCard(readme, ignore_metadata_errors=True).text.split(f"\n{USAGE_HEADING}")[0].strip() + "\n"


def metadata_of(manifest: Manifest, licence: str) -> ModelCardData:
    """Return what a hub lists a model by."""
    streaming = manifest.kind == RECURRENT
    network = "mamba" if streaming else str(manifest.model.get("kind", manifest.kind))
    results = _results(manifest)
    on_ptbxl = "PTB-XL" in str(manifest.training.get("data", ""))
    return ModelCardData(
        license=licence,
        library_name=LIBRARY,
        tags=["ecg", "electrocardiogram", "12-lead", network, "streaming" if streaming else "windowed", "onnx", "edge"],
        datasets=[DATASET] if on_ptbxl else None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=manifest.name,
        eval_results=results or None,
    )


def _own_card(bundle: Bundle) -> str:
    """Return the card that lies in the folder, or one made of the manifest: without pictures, which lie nowhere."""
    written, shared = bundle.path / CARD_NAME, bundle.path / README_NAME
    if written.is_file():
        return written.read_text(encoding="utf-8")
    if shared.is_file():
        return own_part(shared.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        card, *_ = write_card(Path(scratch), read_sources(bundle, ()))
        return re.sub(r"!\[[^\]]*\]\([^)]*\)\n*", "", card.read_text(encoding="utf-8"))


def _results(manifest: Manifest) -> list[EvalResult]:
    measured: dict[str, Any] = manifest.metrics
    folds = measured.get("folds")
    split = f"fold{'s' * (len(folds) > 1)} {folds_text(folds)}" if isinstance(folds, list) else None
    return [
        EvalResult(
            task_type="other",
            task_name=f"12-lead ECG, {len(manifest.classes)} classes, several of them at once",
            dataset_type=DATASET,
            dataset_name=str(measured.get("data", DATASET)),
            dataset_split=split,
            metric_type=kind,
            metric_name=words,
            metric_value=round(value, 4),
        )
        for figure, (kind, words) in MEASURED.items()
        if isinstance(value := measured.get(figure), float)
    ]
