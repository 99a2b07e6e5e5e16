"""What a masked-prediction pre-training has to guess: which of K clusters each frame of an ECG belongs to.

Dimension letters: B batch · T samples · F frames · D features · K clusters
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from trainer.networks.hubert import Hubert

BANDS = 8
FLOOR = 1e-4
"""Added to powers before their logarithm: silence is finite."""


@dataclass(frozen=True)
class Clusters:
    """Centres in standardised feature space."""

    mean: Tensor  # (D,)
    deviation: Tensor  # (D,)
    centres: Tensor  # (K, D)

    def to(self, device: torch.device) -> Clusters:
        """Return them on a device."""
        return Clusters(self.mean.to(device), self.deviation.to(device), self.centres.to(device))

    def of(self, features: Tensor) -> Tensor:
        """Features (B, F, D) → the nearest cluster of each frame (B, F)."""
        scaled = ((features - self.mean) / self.deviation).flatten(0, 1)
        return torch.cdist(scaled, self.centres).argmin(1).reshape(features.shape[:2])


def find_clusters(features: NDArray[np.float32], count: int, seed: int) -> Clusters:
    """Find K clusters of frames (frames, D) by k-means on standardised features."""
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    found = MiniBatchKMeans(count, batch_size=4096, n_init=1, max_iter=20, random_state=seed)
    found.fit((features - mean) / deviation)
    mean_t, deviation_t, centres = (
        torch.from_numpy(np.asarray(array, np.float32)) for array in (mean, deviation, found.cluster_centers_)
    )
    return Clusters(mean_t, deviation_t, centres)


def signal_features(network: Hubert, crops: Tensor) -> Tensor:
    """Crops (B, T, leads) → what each frame of the flattened leads looks like by itself (B, F, 10).

    Its mean, its change from end to end, and the logarithms of its power in bands of equal width.
    """
    flat = network.flattened(crops)
    frames = network.frames(crops.shape[1])
    windows = flat.unfold(1, network.hop, network.hop)[:, :frames]  # (B, F, hop)
    power = torch.fft.rfft(windows - windows.mean(2, keepdim=True), dim=2).abs().square()[:, :, 1:]
    bands = torch.stack([band.mean(2) for band in power.tensor_split(BANDS, 2)], 2)
    shape = torch.stack([windows.mean(2), windows[:, :, -1] - windows[:, :, 0]], 2)
    return torch.cat([shape, torch.log(bands + FLOOR)], 2)
