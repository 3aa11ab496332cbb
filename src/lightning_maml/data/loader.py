"""Load meta-batches of tasks as `Episodes`."""

import os
import signal
import sys
import threading
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from lightning_maml.data.tasks import Drawn, TaskDataset, TaskSampler
from lightning_maml.episodes import Episodes


class EpisodeLoader(DataLoader[Any]):
    """Loads meta-batches of numbered tasks.

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
        on_linux = sys.platform == "linux"
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=num_workers,
            pin_memory=pin_memory,
            collate_fn=_to_episodes,
            # With Python 3.14's own choice, each worker would import PyTorch first.
            multiprocessing_context="fork" if on_linux and num_workers else None,
            worker_init_fn=_heed_the_parent_alone if on_linux else None,
        )

    def __iter__(self) -> Any:
        """Start workers with SIGTERM blocked on Linux, where clusters are: `worker_init_fn` runs late."""
        if sys.platform != "linux":
            return super().__iter__()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def state_dict(self) -> dict[str, int]:
        """Return nothing: tasks are numbered, so the sampler finds its place from Lightning's own count."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Tell Lightning, by being there, that this loader can be resumed in the middle of an epoch."""


def _heed_the_parent_alone(_worker: int) -> None:
    """Heed SIGTERM from the parent alone, on Linux. A cluster sends it to every process; the one that trains ends its
    workers when it has saved, and also sends SIGTERM when it exits, and waits for them."""
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_parent_says_so, daemon=True).start()


def _end_when_the_parent_says_so() -> None:
    if sys.platform == "linux":
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)


def _to_episodes(tasks: list[Drawn] | Episodes) -> Episodes:
    """Stack tasks; what is `Episodes` already passes. Floating-point values get torch's default precision."""
    if not isinstance(tasks, Episodes):
        fields = []
        for part in (0, 1):
            inputs, targets = zip(*(default_collate(task[part]) for task in tasks), strict=True)
            fields += [torch.stack(inputs), _targets(torch.stack(targets))]
        tasks = Episodes(*fields)
    precision = torch.get_default_dtype()
    return Episodes(*(field.to(precision) if field.is_floating_point() else field for field in tasks))


def _targets(y: Shaped[Tensor, "tasks samples *target"]) -> Shaped[Tensor, "tasks samples *outputs"]:
    """Return class labels as int64, regression targets as `[tasks, samples, outputs]`; a number is one output."""
    if not y.is_floating_point():
        return y.long()
    return y[..., None] if y.dim() == 2 else y


def position(trainer: pl.Trainer) -> tuple[int, int]:
    """Return where meta-training stands: the epoch, and the meta-batches done in it. A resumed run starts there."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    if progress.is_last_batch and progress.current.processed == progress.current.ready:
        return trainer.fit_loop.epoch_progress.total.ready, 0  # the epoch is complete but for its validation
    return trainer.current_epoch, progress.current.processed
