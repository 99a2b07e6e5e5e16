"""A windowed network as an ONNX graph: one whole window in, the averaged logits of its crops out, the batch dynamic.

Traced by PyTorch's exporter, for such a graph has neither state nor loop: what `export.graph` writes node by node. It
fixes the window's length, and with it how many crops there are.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import onnx
import torch

from export.builder import IR_VERSION, OPSET
from export.graph import BATCH, ExportError
from trainer.networks.windowed import Windowed

WINDOW_S = 10.0
"""A record's length: what the trainer evaluates these networks on."""

HOP_S = 1.0


def windowed_graph(network: Windowed, leads: int, rate_hz: int) -> onnx.ModelProto:
    """Write the network as a graph of `x` (batch, window samples, leads) and `logits` (batch, classes).

    Raises ExportError when PyTorch cannot write an operation, and whatever the network says to a window so long.
    """
    windows, free = torch.zeros(2, round(WINDOW_S * rate_hz), leads), {0: BATCH}
    try:
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            file = Path(scratch, "traced.onnx")
            warnings.simplefilter("ignore")  # it warns of its own age, and of shapes that a trace fixes, as it should
            torch.onnx.export(
                network.eval(), (windows,), file, dynamo=False, opset_version=OPSET,
                input_names=["x"], output_names=["logits"], dynamic_axes={"x": free, "logits": free},
            )  # fmt: skip
            graph = onnx.load(file)
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"PyTorch cannot write this network as a graph: {str(error).splitlines()[0]}") from None
    graph.ir_version = IR_VERSION
    graph.producer_name, graph.producer_version, graph.doc_string = "ecg-edge", "", "ecg-edge windowed classifier"
    onnx.checker.check_model(graph, full_check=True)
    return graph
