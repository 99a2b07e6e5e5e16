"""The model card: Markdown made of a bundle's manifest and of what the evaluation commands printed as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from edge.runtime.bundle import Bundle
from edge.runtime.manifest import WEIGHTS_NAME, Manifest
from trainer.card import text
from trainer.card.markdown import image, markdown, plain_text, sentences, settings_text
from trainer.card.sources import Sources, alert_tuning, tuned_figures
from trainer.card.tables import calibration_sheet, figures_sheet, seed_sheets, state_sheet
from trainer.filters import st_shift_text
from trainer.folds import folds_text
from trainer.predict import task_of
from trainer.ptbxl import CLASSES
from trainer.stream_evaluation.plots import write_stream_plots
from trainer.stream_evaluation.result import StreamEvaluation
from trainer.stream_evaluation.sheets import groups_sheet, sheets_of
from trainer.streams.report import alert_sheets, write_trade_off

CARD_NAME = "MODEL_CARD.md"
PLOTS_NAME = "plots"
FLOAT32_BYTES = 4
MOST_COLUMNS = 8
"""A table of more classes than these is not read by anybody."""
PANELS = {
    "warm": ["warm"],
    "seconds": ["seconds"],
    "windows": [],
    "alerts": ["delays", "false_alerts", "trade_off_detected", "trade_off_delay"],
    "robustness": ["noise", "robustness"],
    "groups": ["groups"],
}
"""Which plots stand below which table of a streaming evaluation."""


def write_card(out: Path, sources: Sources) -> list[Path]:
    """Write the card and its plots into a folder; return their paths, the card first."""
    out.mkdir(parents=True, exist_ok=True)
    manifest, plots = sources.manifest, _Plots(out)
    noise = any(s.robustness for s in sources.own.streams)
    labels = text.SUPERCLASSES if _at_any_likelihood(manifest) else text.OTHER_LABELS.format(task=_task(manifest))
    sections = [
        ("Use", text.USE),
        ("Data", text.DATA.format(labels=labels, **_folds(manifest)) + (text.NOISE if noise else "")),
        ("Training", _training(manifest)),
        ("Figures on whole records", _join(_whole_records(sources, plots))),
        ("Figures on streams", _join(_streams(sources, plots))),
        ("Alert thresholds", _join(_alert_thresholds(manifest, plots))),
        ("Carried state", "" if manifest.state_monitor is None else markdown(state_sheet(manifest.state_monitor))),
        ("Seeds", _join(map(markdown, seed_sheets(sources)))),
        ("Studies", _join(map(markdown, sources.tables))),
        ("Known limits", text.LIMITS.format(classes=text.FIVE_CLASSES if _has_superclasses(manifest) else "")),
    ]
    written = [f"## {title}\n\n{body.strip()}\n" for title, body in sections if body.strip()]
    card = out / CARD_NAME
    card.write_text("\n".join([_head(sources.bundle, sources.facts), *written]), encoding="utf-8")
    return [card, *plots.paths]


class _Plots:
    """Pictures beside the card."""

    def __init__(self, out: Path) -> None:
        self.paths: list[Path] = []
        self._out = out

    def of_streams(self, result: StreamEvaluation, number: int) -> dict[str, str]:
        """Draw a streaming evaluation; return the Markdown of each picture by its name."""
        folder = self._out / PLOTS_NAME / (f"streams-{number}" if number > 1 else "")
        return {path.stem: self._shown(path) for path in write_stream_plots(folder, result, page=False)}

    def of_alerts(self, manifest: Manifest) -> str:
        """Draw what a budget of false alerts buys."""
        tuning = alert_tuning(manifest)
        return "" if tuning is None else self._shown(write_trade_off(self._out / PLOTS_NAME, tuning))

    def beside(self, names: Sequence[str]) -> Iterator[str]:
        """Show those of the named pictures that lie in the card's folder."""
        for path in (self._out / name for name in names):
            if path.is_relative_to(self._out) and path.is_file():
                yield self._shown(path)

    def _shown(self, path: Path) -> str:
        self.paths.append(path)
        return image(path, self._out)


def _head(bundle: Bundle, known: dict[str, str]) -> str:
    manifest = bundle.manifest
    state_bytes = FLOAT32_BYTES * sum(prod(tensor.shape) for tensor in manifest.state)
    low_hz, high_hz = manifest.signal.band_hz
    facts = {
        **known,
        "kind": manifest.kind,
        "classes": ", ".join(manifest.classes),
        "leads": ", ".join(manifest.leads),
        "signal": f"{manifest.signal.rate_hz} Hz, {low_hz:g}-{high_hz:g} Hz, causal",
        "ST level moved by the filter": _st_shift(manifest),
        "window and hop": f"{manifest.window_s:g} s, a score every {manifest.hop_s:g} s",
        "parameters": f"{parameters(bundle):,}" if WEIGHTS_NAME in manifest.files else "",
        "carried state": f"{state_bytes / 1024:.1f} KiB per stream, float32",
        "architecture": settings_text(manifest.model),
        **{f"SHA-256 of {name}": f"`{digest}`" for name, digest in sorted(manifest.files.items())},
    }
    lines = [f"| {name} | {value} |" for name, value in facts.items() if value]
    title = [f"# {manifest.name} {manifest.version}", "", f"**{manifest.notice}**", "", "| | |", "|:--|:--|"]
    return "\n".join([*title, *lines, ""])


def _st_shift(manifest: Manifest) -> str:
    return st_shift_text(np.array(manifest.signal.sos), manifest.signal.rate_hz)


def parameters(bundle: Bundle) -> int:
    """Return how many numbers the weights are."""
    with safe_open(bundle.weights_path, framework="numpy") as weights:
        return sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


def _has_superclasses(manifest: Manifest) -> bool:
    return tuple(manifest.classes) == CLASSES


def _at_any_likelihood(manifest: Manifest) -> bool:
    """Whether the task is the trainer's default: every superclass that is stated at all, and no record without one."""
    task = task_of(manifest)
    asked = {"labels": "superclass", "min_likelihood": 0, "unlabelled": "left_out"}
    return _has_superclasses(manifest) and all(task.get(name, value) == value for name, value in asked.items())


def _task(manifest: Manifest) -> str:
    task = task_of(manifest)
    return settings_text({name: value for name, value in task.items() if value != ""}) or "a user's own"


def _folds(manifest: Manifest) -> dict[str, str]:
    """Return which folds trained and which chose the weights, as words; PTB-XL's usual ones where nothing says so."""
    usual = {"folds": [*range(1, 9)], "tune_folds": [9]}
    stated = {key: folds for key in usual if isinstance(folds := manifest.training.get(key), list) and folds}
    return {key: folds_text(folds) for key, folds in (usual | stated).items()}


def _training(manifest: Manifest) -> str:
    training = dict(manifest.training)
    preset: Any = training.pop("preset", {})
    command = training.pop("command", None)
    lines = [f"```sh\n{command}\n```"] if command else []
    facts = {name: plain_text(value) for name, value in training.items() if value not in (None, "", [], {})}
    lines += ["\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items())]
    recipe = preset.get("training", {}) if isinstance(preset, dict) else {}
    lines += [f"The recipe: {settings_text(recipe)}."] if recipe else []
    tuned = manifest.metrics.get("command")
    lines += [f"Calibration and thresholds:\n\n```sh\n{tuned}\n```"] if tuned else []
    if tuned and len(manifest.classes) <= MOST_COLUMNS:
        lines.append(markdown(calibration_sheet(manifest)))
    return _join(lines)


def _whole_records(sources: Sources, plots: _Plots) -> Iterable[str]:
    metrics, tuned = sources.manifest.metrics, tuned_figures(sources.manifest)
    for evaluated in sources.own.records or ([] if tuned is None else [tuned]):
        yield markdown(figures_sheet(evaluated))
        yield "\n".join(plots.beside(evaluated.printed.plots))
        if evaluated.printed.groups:
            yield markdown(groups_sheet(evaluated.printed.groups, "Macro-AUC by sex and age, whole records"))
    names = {
        "macro_auc": "macro-AUC",
        "macro_f1": "macro-F1",
        "macro_auprc": "macro average precision",
        "ece": "calibration error",
    }
    apart = {words: metrics.get(f"{name}_crossfit") for name, words in names.items()}
    if all(isinstance(value, float) for value in apart.values()):
        yield (
            "With calibration and thresholds fitted on one half of the tuning records' patients and measured on the "
            "other, both ways, the mean of several random halvings: "
            + ", ".join(f"{words} {value:.4f}" for words, value in apart.items())
            + "."
        )


def _streams(sources: Sources, plots: _Plots) -> Iterable[str]:
    for number, result in enumerate(sources.own.streams, 1):
        images = plots.of_streams(result, number)
        yield f"`{result.command}`, {result.date}, {result.runtime}. {sentences(result.notes)}"
        for part, sheet in sheets_of(result).items():
            yield markdown(sheet)
            yield from (images[name] for name in PANELS[part] if name in images)


def _alert_thresholds(manifest: Manifest, plots: _Plots) -> Iterable[str]:
    tuning = alert_tuning(manifest)
    if tuning is not None:
        yield text.ALERTS.strip()
        yield from map(markdown, alert_sheets(tuning))
        yield plots.of_alerts(manifest)
        yield sentences(tuning.notes)


def _join(parts: Iterable[str] | Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part)
