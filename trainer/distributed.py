"""Training and pre-training with several processes and on GPUs: `torchrun --nproc-per-node N -m trainer train …`.

Every process draws the same batches and takes its share of each; `DistributedDataParallel` averages the gradients,
which are then those of one process. The first one alone evaluates, writes and reports. Without torchrun there is one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from edge.cli.output import say
from edge.errors import EcgEdgeError
from trainer.batches import Batch
from trainer.statistics import has_statistics

PATIENCE = timedelta(hours=2)
"""How long processes wait for one another: the first one reads a cache or evaluates while the others have nothing."""
CPU = torch.device("cpu")
T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


class WorkersError(EcgEdgeError):
    """These processes cannot train together."""


@dataclass(frozen=True)
class Workers:
    """The processes that train one model, as one of them sees them; by default it is alone and on the CPU."""

    device: torch.device = CPU
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that evaluates, writes and reports."""
        return self.rank == 0

    def say(self, message: str) -> None:
        """Write a line of progress to standard error, once for all."""
        if self.first:
            say(message)

    def placed(self, model: M) -> M:
        """Return the model on this process's device.

        Batch normalisation of several processes is over the whole batch, by SyncBatchNorm, which PyTorch has for GPUs
        only: on CPUs it raises WorkersError, because each share by itself would train another network.
        """
        if self.count > 1 and has_statistics(model):
            if self.device.type == "cpu":
                raise WorkersError(
                    "a network with batch normalisation trains in one process on a CPU (use --threads): over shares of "
                    "a batch it would be another network, and PyTorch's SyncBatchNorm needs GPUs"
                )
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return model.to(self.device)

    def replicated(self, step: nn.Module, skips_layers: bool) -> nn.Module:
        """Return a module whose backward pass leaves the average of all processes' gradients.

        skips_layers: whether a pass may leave some of its parameters out.
        """
        if self.count == 1:
            return step
        return nn.parallel.DistributedDataParallel(step, find_unused_parameters=skips_layers)

    def share(self, batch: Batch, views: int = 1) -> Batch:
        """Return this process's rows of a batch, on its device; raises WorkersError when there are too few for all.

        Of several views, each of which has a row for every record, it is the same records of all.
        """
        if len(batch.crops) // views < self.count:
            raise WorkersError(f"a batch of {len(batch.crops) // views} cannot be shared by {self.count} processes")
        return replace(batch, crops=self.own(batch.crops, views), targets=self.own(batch.targets, views))

    def own(self, rows: Tensor, views: int = 1) -> Tensor:
        """Return this process's share of a batch's rows, on its device."""
        return torch.cat([view[self._rows(len(view))] for view in rows.chunk(views)]).to(self.device)

    def gathered(self, rows: Tensor, views: int = 1) -> Tensor:
        """Return the rows of a batch that the processes have shares of, in its order, with a gradient to one's own.

        So each process has the loss of the whole batch, and the gradient of its share of it: times `count` they
        average to the batch's.
        """
        if self.count == 1:
            return rows
        sizes = self._sizes(len(rows))
        padded = F.pad(rows.detach(), (0, 0) * (rows.dim() - 1) + (0, max(sizes) - len(rows))).contiguous()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        whole = [part[:size] for part, size in zip(parts, sizes, strict=True)]
        whole[self.rank] = rows
        chunks = [part.chunk(views) for part in whole]
        return torch.cat([chunk[view] for view in range(views) for chunk in chunks])

    def total(self, rows: int) -> int:
        """Return how many rows the processes have together."""
        return sum(self._sizes(rows))

    def weight(self, batch: Batch) -> float:
        """Return how much the mean loss of this share counts, so that the processes' average is the batch's."""
        rows = self._rows(len(batch.crops))
        share: int = rows.stop - rows.start
        return self.count * share / len(batch.crops)

    def agreed(self, make: Callable[[], T]) -> T:
        """Return what `make` gives in the first process, in all of them."""
        if self.count == 1:
            return make()
        made: list[Any] = [make() if self.first else None]
        dist.broadcast_object_list(made, src=0)
        return made[0]  # type: ignore[no-any-return]

    def mean(self, value: float) -> float:
        """Return the average of the processes' values."""
        return sum(self._all(value)) / self.count

    def joined(self, shares: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors whose rows the processes have shares of, whole and on the CPU."""
        parts = self._all({name: tensor.cpu() for name, tensor in shares.items()})
        return {name: torch.cat([part[name] for part in parts]) for name in shares}

    def shares(self, joined: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return this process's rows of what `joined` gave."""
        return {name: self.own(tensor) for name, tensor in joined.items()}

    def reseed(self, seed: int, epoch: int) -> None:
        """Give an epoch's dropout numbers of its own in every process and on every GPU, the same when it is run again.

        The first process on a CPU goes on with PyTorch's generator, whose state the run keeps.
        """
        if self.rank > 0 or self.device.type != "cpu":
            mixed = np.random.SeedSequence([seed, epoch, self.rank]).generate_state(1, np.uint64)
            torch.manual_seed(int(mixed[0]))

    def _rows(self, rows: int) -> slice:
        return slice(rows * self.rank // self.count, rows * (self.rank + 1) // self.count)

    def _sizes(self, rows: int) -> list[int]:
        if self.count == 1:
            return [rows]
        sizes = torch.empty(self.count, dtype=torch.int64, device=self.device)
        dist.all_gather_into_tensor(sizes, torch.tensor([rows], device=self.device))
        return sizes.tolist()

    def _all(self, value: T) -> list[T]:
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values


def alone() -> Workers:
    """Return one process by itself: on the GPU if there is one (CUDA_VISIBLE_DEVICES= hides it), else on the CPU."""
    return Workers(_device(0))


def refuse_several(command: str) -> None:
    """Raise WorkersError under torchrun with several processes: each would write what the others write."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise WorkersError(f"{command} works in one process; torchrun is for `ecg-trainer train` and `pretrain`")


@contextmanager
def workers() -> Iterator[Workers]:
    """Join the processes that torchrun has started for as long as the context lasts; without torchrun there is one.

    Raises WorkersError when there are more of them than GPUs.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield alone()
        return
    device = _device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Workers(device, dist.get_rank(), count)
        dist.barrier()  # one that leaves while others still speak may die of it
    finally:
        dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return CPU
    if local_rank >= torch.cuda.device_count():
        raise WorkersError(f"process {local_rank + 1} of this machine has no GPU of its own: there are "
                           f"{torch.cuda.device_count()}; start as many (--nproc-per-node)")  # fmt: skip
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
