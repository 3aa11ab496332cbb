"""What a run says before it begins, and when it has ended."""

import logging
import os
import shlex
import sys
from collections.abc import Mapping

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.utilities import rank_zero_only

from lightning_maml.models import BatchNorm
from lightning_maml.training import OuterLoop

log = logging.getLogger(__name__)

_PICTURES = [f"{name}.{end}" for name in ("curves", "adaptation", "episode", "fits") for end in ("png", "pdf", "svg")]
_STATISTICS = {
    "batch": "the batch at hand; the network's running statistics are not used",
    "running": "the running statistics that the network came with, which stay as they are",
}


@rank_zero_only
def announce(
    trainer: pl.Trainer,
    algorithm: OuterLoop,
    tasks: str,
    choices: Mapping[str, str | None],
    run_dir: str,
    batch_norm: BatchNorm | None = None,
) -> None:
    """Log what is about to run, a line each: the method, the data, the network, where it computes, where it writes.

    Args:
        trainer, algorithm: those of the run.
        tasks: the data's tasks, in words.
        choices: which member was picked of each group of conf/.
        run_dir: the run's folder.
        batch_norm: what the network's batch norms normalize by, if they came with running statistics.
    """
    steps = counted(algorithm.num_inner_steps, "inner step")
    if algorithm.eval_inner_steps != algorithm.num_inner_steps:
        steps += f", {algorithm.eval_inner_steps} in validation and test"
    parameters = sum(parameter.numel() for parameter in algorithm.parameters())
    log.info("method: %s, inner_loop=%s, %s", choices.get("algorithm"), choices.get("inner_loop"), steps)
    log.info("data: %s, %s", choices.get("data"), tasks)
    log.info("network: %s, %s learned, on %s", choices.get("model"), counted(parameters, "parameter"), device(trainer))
    if batch_norm is not None:
        log.info("batch norm: by %s (model.batch_norm=%s)", _STATISTICS[batch_norm], batch_norm)
    log.info("folder: %s", shown(run_dir))


@rank_zero_only
def conclude(run_dir: str, overrides: list[str], best: str = "") -> None:
    """Log where everything is, what to open first, and how to resume.

    Args:
        run_dir: the run's folder.
        overrides: the Hydra overrides that the run was started with.
        best: the best checkpoint; "" for none.
    """
    folder = shown(run_dir)
    paths = [*(os.path.join(folder, name) for name in (*_PICTURES, "metrics.json")), *([shown(best)] if best else [])]
    lines = [f"everything is in {folder}", *(f"  {path}" for path in paths if os.path.exists(path))]
    log.info("\n".join(lines))
    last = os.path.join(folder, "checkpoints", "last.ckpt")
    if os.path.exists(last) and HydraConfig.get().mode != RunMode.MULTIRUN:  # a sweep is resumed as a whole
        kept = [override for override in overrides if not override.startswith("train.ckpt_path=")]
        command = [program("python"), shown(sys.argv[0]), *kept, f"train.ckpt_path={last}", f"hydra.run.dir={folder}"]
        log.info("to resume, perhaps with more epochs: %s", shlex.join(command))


def counted(number: int, what: str) -> str:
    """Return a number and what it counts: "1 inner step", "2,000 meta-updates"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def device(trainer: pl.Trainer) -> str:
    """Return where a trainer computes, and on how many devices."""
    name = str(trainer.strategy.root_device)
    return name if trainer.world_size == 1 else f"{trainer.world_size} × {name}"


def program(name: str) -> str:
    """Return what to type for a program of this environment, whether it is active or not."""
    return shown(os.path.join(os.path.dirname(sys.executable), name))


def shown(path: str) -> str:
    """Return a path as it is shortest to type: relative, or absolute."""
    whole = os.path.abspath(path)
    try:
        return min(os.path.relpath(path), whole, key=len)
    except ValueError:  # it is on another drive of Windows
        return whole
