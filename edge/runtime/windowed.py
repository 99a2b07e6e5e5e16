"""Windowed bundles in ONNX Runtime: a stream's state is its last window, and each hop is a look at all of it anew.

How any classifier of whole windows is run beside the recurrent model: its graph takes `x` (batch, window samples,
leads) and gives `logits` (batch, classes), and knows nothing of hops.
"""

from __future__ import annotations

import numpy as np

from edge.runtime.base import Float32Array, State
from edge.runtime.manifest import WINDOW, Manifest
from edge.runtime.onnx import OnnxRuntime, Shapes

WINDOWS_AT_ONCE = 8
"""Windows that go into one run of the graph: more are hardly faster on a CPU, and their features take memory."""


class WindowedRuntime(OnnxRuntime):
    """Runs a windowed bundle's graph; see `edge.runtime.base.Runtime` for the contract.

    A stream starts with a window of zeros, the mean of the training folds, and has logits from its first hop on; they
    mean something once its own samples fill the window. Raises as OnnxRuntime does.
    """

    @staticmethod
    def signature(manifest: Manifest) -> tuple[Shapes, Shapes]:
        """Return the inputs and the outputs that the graph of such a manifest has."""
        window: Shapes = {"x": [None, manifest.window_samples, len(manifest.leads)]}
        return window, {"logits": [None, len(manifest.classes)]}

    def advance(self, state: State, frames: Float32Array) -> tuple[Float32Array, State]:
        """Take frames (slots, samples, leads) into the windows; return logits (slots, classes) and the windows."""
        joined = np.concatenate([state[WINDOW], frames], axis=1)
        windows = np.ascontiguousarray(joined[:, -self.bundle.manifest.window_samples :])
        parts = [windows[k : k + WINDOWS_AT_ONCE] for k in range(0, len(windows), WINDOWS_AT_ONCE)]
        return np.concatenate([self._session.run(["logits"], {"x": part})[0] for part in parts]), {WINDOW: windows}
