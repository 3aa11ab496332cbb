"""Whether a checkpoint, which may be a stranger's, fits the run that is to go on from it: told before anything is
loaded or written."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy, deepcopy
from pathlib import Path
from typing import Annotated, Any, Required

import pytorch_lightning as pl
import torch
from packaging.version import Version
from pydantic import Field, InstanceOf, Strict, TypeAdapter, ValidationError
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor
from typing_extensions import TypedDict

from lightning_maml.errors import SettingError, one_line
from lightning_maml.inner_loops import Trajectory
from lightning_maml.training.checkpoint_files import load_whole, reading, require_finite
from lightning_maml.training.likeness import differences, require_like
from lightning_maml.training.optimizers import step_scheduler
from lightning_maml.training.outer_loop import OuterLoop
from lightning_maml.training.own_files import forget_paths

log = logging.getLogger(__name__)

_SETTING = "train.ckpt_path"
_VERSION = "pytorch-lightning_version"  # of another major one, Lightning would change what it finds
# What a schedule changes of its own state as it goes on; its base_lrs are the optimizer's, its _schedulers have theirs.
_MOVES = ["last_epoch", "base_lrs", "_last_lr", "_step_count", "_get_lr_called_within_step", "_is_initial"]
_MOVES += ["T_cur", "T_i", "_schedulers"]
_Number = Annotated[int, Strict(), Field(ge=0, lt=2**63)]


class _Optimizer(TypedDict):
    state: dict[Any, Any]
    param_groups: list[dict[str, Any]]


class _Position(TypedDict):
    rows: _Number
    last: dict[str, str] | None


class _Accumulated(TypedDict):
    gradients: dict[str, InstanceOf[Tensor]]
    trajectories: list[tuple[Any, ...]]


class _Written(TypedDict, total=False):
    """What a run writes."""

    state_dict: Required[dict[str, InstanceOf[Tensor]]]
    loops: Required[dict[str, dict[str, Any]]]
    callbacks: dict[str, dict[Any, Any]]
    optimizer_states: list[_Optimizer]
    lr_schedulers: list[dict[str, Any]]
    metrics_csv: _Position
    global_step: _Number
    skipped: _Number
    outer_optimizer: str
    inner_loop: dict[str, str]
    objective: dict[str, Any]
    accumulated: _Accumulated


_WRITTEN = TypeAdapter(_Written)


def read_checkpoint(path: str | None) -> dict[str, Any]:
    """Return a run's checkpoint, on the CPU.

    Raises:
        SettingError: if the file is missing, or is no checkpoint of this project.
    """
    if path is None:
        raise SettingError(_SETTING, None, "with train.fit=false, give the checkpoint to test")
    with reading(_SETTING, path, "checkpoint of a run", "a run keeps its own in checkpoints/last.ckpt"):
        checkpoint: dict[str, Any] = load_whole(path)
        version = checkpoint[_VERSION]
    with _fitting(path):
        try:
            _WRITTEN.validate_python(checkpoint)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc'][:3]))}: {first['msg']}") from error
        if Version(version).major != 2:
            raise ValueError(f"{_VERSION} is not 2.…")
    return checkpoint


def check_checkpoint(path: str, algorithm: OuterLoop, trainer: pl.Trainer, *, trains: bool = True) -> None:
    """Compare a checkpoint's weights with the algorithm's, name by name and shape by shape; and all that Lightning
    would restore of it with what this run would write.

    Args:
        path: the checkpoint.
        algorithm: what is to go on from it.
        trainer: of the run, which has not begun.
        trains: whether it goes on training, and not only tests.

    Raises:
        SettingError: if it holds another network or another number of outputs, or what the run could not go on from.
    """
    checkpoint = read_checkpoint(path)
    _check_weights(path, checkpoint["state_dict"], algorithm)
    if trains:
        _check_optimizers_name(path, checkpoint, algorithm)
    with _fitting(path):
        require_like(checkpoint["loops"]["test_loop"]["state_dict"], {}, "loops.test_loop.state_dict")
        differing = _check_callbacks(checkpoint, trainer)
        if trains:
            _check_accumulated(checkpoint.get("accumulated"), algorithm)
            require_like(checkpoint["loops"]["fit_loop"], trainer.fit_loop.state_dict(), "loops.fit_loop", counts=True)
            _check_loaders(checkpoint["loops"]["fit_loop"]["state_dict"])
            differing += _check_objective(checkpoint, algorithm)
            differing += _check_optimizer(checkpoint, algorithm, trainer.strategy.root_device)
    if trains and differing and trainer.is_global_zero:
        log.warning("%s goes on as it was begun, and not as this run says: %s", path, "; ".join(differing))


def can_be_tested(path: Path, algorithm: OuterLoop, trainer: pl.Trainer) -> bool:
    """Return whether it is a whole checkpoint, with weights for this algorithm, that a run which has not begun can
    test."""
    try:
        check_checkpoint(str(path), algorithm, trainer, trains=False)
    except SettingError:
        return False
    return True


@contextmanager
def _fitting(path: str) -> Iterator[None]:
    """Say of what is raised within that the run cannot go on from this checkpoint."""
    try:
        yield
    except Exception as error:  # over what anybody may have written, libraries raise what they stumble on
        reason = f"a run could not go on from what it holds ({one_line(error)[:200]}); give another"
        raise SettingError(_SETTING, path, reason) from error


def _check_weights(path: str, weights: Mapping[str, Tensor], algorithm: OuterLoop) -> None:
    own = algorithm.state_dict()
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    wanted = {name: tuple(value.shape) for name, value in own.items()}
    if shapes == wanted:
        with _fitting(path):
            require_finite(weights, own)
        return
    different = [name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name)]
    heads = [name for name in different if ".head." in name and name in wanted and name in shapes]
    if len(heads) == len(different) and all(shapes[name][1:] == wanted[name][1:] for name in heads):
        ways, needed = shapes[heads[0]][0], wanted[heads[0]][0]
        raise SettingError(
            _SETTING,
            path,
            f"it was trained with {ways} outputs, this run has {needed}; set data.datamodule.nway={ways}",
        )
    name = min(different)
    raise SettingError(
        _SETTING,
        path,
        f"it was trained for another network ({name} is {shapes.get(name, 'absent')} there, "
        f"{wanted.get(name, 'absent')} here); give the model=, data= and algorithm= overrides that it was trained with",
    )


def _check_loaders(state: Mapping[str, Any]) -> None:
    loaders = state.get("combined_loader", [{}])
    if not isinstance(loaders, list) or len(loaders) != 1 or not isinstance(loaders[0], Mapping):
        raise ValueError("loops.fit_loop.state_dict.combined_loader")


def _check_accumulated(sums: Mapping[str, Any] | None, algorithm: OuterLoop) -> None:
    """Check what is kept of an unfinished meta-update: a gradient for each meta-parameter, and trajectories of as many
    steps as here."""
    if sums is None:
        return
    wanted = {name: value.shape for name, value in algorithm.learner.meta_parameters().items()}
    joined = Trajectory.concatenate([Trajectory(*fields) for fields in sums["trajectories"]])
    seen = [joined.query_loss, *(values for values in joined if values is not None)]
    kinds = {(values.shape[1:], values.is_floating_point()) for values in seen}
    found = {name: value.shape[1:] for name, value in sums["gradients"].items()}  # [ranks, *shape]
    if (
        not all(value.dim() and len(value) for value in sums["gradients"].values())
        or found != wanted
        or kinds != {((algorithm.num_inner_steps + 1,), True)}
    ):
        raise ValueError("accumulated: it is of another algorithm")


def _check_objective(checkpoint: Mapping[str, Any], algorithm: OuterLoop) -> list[str]:
    if not hasattr(algorithm.objective, "state_dict") or "objective" not in checkpoint:
        return []
    kept, own = checkpoint["objective"], algorithm.objective.state_dict()
    require_like(kept, own, "objective", counts=True)
    return differences("algorithm.objective", kept, own)


def _check_optimizers_name(path: str, checkpoint: Mapping[str, Any], algorithm: OuterLoop) -> None:
    own = type(algorithm.optimizer_of(algorithm.learner.meta_parameters().values())[0]).__qualname__
    kept = checkpoint.get("outer_optimizer", own)  # older checkpoints do not say
    if kept != own:
        remedy = f"{path} was trained with {kept}, whose state is of no use to another; give that, or start anew"
        raise SettingError("outer_optimizer._target_", own, remedy)


def _check_optimizer(checkpoint: Mapping[str, Any], algorithm: OuterLoop, device: torch.device) -> list[str]:
    """Let an outer optimizer of copies of the meta-parameters, and its schedule, go on from what was kept. Returns what
    that has otherwise than this run."""
    meta = {name: value.detach().to(device, copy=True) for name, value in algorithm.learner.meta_parameters().items()}
    for value in meta.values():
        value.grad = torch.zeros_like(value)
    optimizer, scheduler = algorithm.optimizer_of(meta.values())
    place = "optimizer_states.param_groups"
    (state,) = checkpoint["optimizer_states"]
    require_like(state["param_groups"], optimizer.state_dict()["param_groups"], place, exact=False)
    group = optimizer.state_dict()["param_groups"][0]
    cycles = ("betas", "momentum") if "max_momentum" in group else ()  # the schedule moves them too
    moves = ["params", *(("lr", *cycles) if scheduler else ())]
    differing = differences("optim.outer_optimizer", state["param_groups"][0], group, moves)
    optimizer.load_state_dict(deepcopy(state))
    try:
        optimizer.step()
    except KeyError as error:
        raise ValueError(f"optimizer_states has no {error}: it is of another outer optimizer") from error
    require_finite(meta)
    kept, own = checkpoint["lr_schedulers"], [] if scheduler is None else [scheduler.state_dict()]
    if [one.keys() for one in kept] != [one.keys() for one in own]:  # a schedule takes all for its attributes
        raise ValueError("lr_schedulers: it is of another schedule")
    require_like(kept, own, "lr_schedulers")
    if scheduler is not None:
        pairs = zip(*([one[0], *one[0].get("_schedulers", [])] for one in (kept, own)), strict=True)
        for old, new in pairs:
            differing += differences("optim.lr_scheduler", old, new, _MOVES)
        scheduler.load_state_dict(deepcopy(kept[0]))
        step_scheduler(scheduler)
    return differing


def _check_callbacks(checkpoint: dict[str, Any], trainer: pl.Trainer) -> list[str]:
    states, differing = checkpoint["callbacks"], []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if callback.state_key in states:
            found, own, name = states[callback.state_key], callback.state_dict(), type(callback).__qualname__
            require_like(found, own, f"callbacks.{name}", exact=False)
            if isinstance(callback, EarlyStopping | ModelCheckpoint) and not own.keys() <= found.keys():
                raise ValueError(f"callbacks.{name} lacks {min(own.keys() - found.keys())}")
            if isinstance(callback, EarlyStopping):
                copy(callback).load_state_dict(found)
                differing += differences("train.early_stopping", {"patience": found["patience"]}, own)
    forget_paths({"callbacks": dict(states)}, trainer.callbacks)  # type: ignore[attr-defined]
    plugin = trainer.precision_plugin
    for name in {type(plugin).__qualname__, "native_amp_scaling_state"} & checkpoint.keys():
        require_like(checkpoint[name], plugin.state_dict(), name)
    return differing
