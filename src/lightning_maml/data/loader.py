"""torchmeta's batch loader, yielding `Episodes`."""

import os
import signal
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Shaped
from torch import Tensor
from torchmeta.utils.data import BatchMetaDataLoader

from lightning_maml.data.tasks import TaskDataset, TaskSampler
from lightning_maml.episodes import Episodes


class EpisodeLoader(BatchMetaDataLoader):  # type: ignore[misc]
    """A `BatchMetaDataLoader` over numbered tasks.

    Args:
        dataset: the tasks.
        sampler: which tasks, in which order.
        batch_size: tasks in a meta-batch.
        num_workers: processes that load ahead; 0 loads in this one.
        pin_memory: copy meta-batches into page-locked memory, for a GPU.
    """

    def __init__(
        self, dataset: TaskDataset, sampler: TaskSampler, batch_size: int, num_workers: int, pin_memory: bool
    ) -> None:
        super().__init__(
            dataset,
            batch_size=batch_size,
            shuffle=False,
            sampler=sampler,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )
        if sys.platform == "linux":
            if num_workers:
                self.multiprocessing_context = "fork"  # with Python 3.14's, each worker would import PyTorch first
            self.worker_init_fn = _heed_the_parent_alone
        self.collate_fn: Any = _ToEpisodes(self.collate_fn)

    def __iter__(self) -> Iterator[Episodes]:
        """Start workers with SIGTERM blocked on Linux, where clusters are: until `worker_init_fn` it would end them."""
        if sys.platform != "linux":
            return super().__iter__()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def state_dict(self) -> dict[str, int]:
        """Nothing: tasks are numbered, so the sampler finds its place from Lightning's own count."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Tells Lightning that this loader can be resumed in the middle of an epoch."""


if sys.platform == "linux":

    def _heed_the_parent_alone(_worker: int) -> None:
        """A cluster sends SIGTERM to every process; the one that trains ends its workers when it has saved. It sends
        it, too, when it exits, and waits for them."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_parent_says_so, daemon=True).start()

    def _end_when_the_parent_says_so() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)


class _ToEpisodes:
    """torchmeta's collate function, with its dictionary turned into `Episodes`; what is `Episodes` already passes."""

    def __init__(self, collate: Callable[[list[Any]], "OrderedDict[str, list[Tensor]]"]) -> None:
        self._collate = collate

    def __call__(self, tasks: list[Any] | Episodes) -> Episodes:
        if not isinstance(tasks, Episodes):
            batch = self._collate(tasks)
            (support_x, support_y), (query_x, query_y) = batch["support"], batch["query"]
            tasks = Episodes(support_x, _targets(support_y), query_x, _targets(query_y))
        return Episodes(*map(_default_float, tasks))


def _targets(y: Shaped[Tensor, "tasks samples *target"]) -> Shaped[Tensor, "tasks samples *outputs"]:
    """Class labels as int64; regression targets as `[tasks, samples, outputs]`, where a number is one output."""
    if not y.is_floating_point():
        return y.long()
    return y[..., None] if y.dim() == 2 else y


def _default_float(tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Floating-point values in torch's default precision (torchmeta's toys are float64); labels as they are."""
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor


def position(trainer: pl.Trainer) -> tuple[int, int]:
    """Where meta-training stands: the epoch, and the meta-batches done in it. A resumed run goes on from there."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    if progress.is_last_batch and progress.current.processed == progress.current.ready:
        return trainer.fit_loop.epoch_progress.total.ready, 0  # the epoch is complete but for its validation
    return trainer.current_epoch, progress.current.processed
