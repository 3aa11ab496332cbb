"""What Lightning's checkpoints leave out."""

import csv
import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_maml.algorithms import MAML
from lightning_maml.errors import SettingError
from lightning_maml.files import replacing
from lightning_maml.inner_loops import HigherLoop, RecomputeLoop, VectorizedLoop
from lightning_maml.reports import MetricsCSV
from lightning_maml.training import AtomicCheckpointIO, Checkpoint, OuterLoop, Resumption, check_checkpoint
from tests.paths import ROOT
from tests.unit.data.test_tasks import glyphs
from tests.unit.training.test_checkpoint_checks import deep


def lines(path: Path) -> list[dict[str, str]]:
    with (path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def log(folder: Path, *steps: int, name: str = "a") -> MetricsCSV:
    logger = MetricsCSV(str(folder))
    for step in steps:
        logger.log_metrics({name: step / 10}, step)
    return logger


def test_what_was_logged_after_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    position = log(tmp_path, 1, 2).state_dict()
    log(tmp_path, 3, 4, name="b")  # a new column too
    resumed = MetricsCSV(str(tmp_path))
    resumed.load_state_dict(position)
    assert [line["step"] for line in lines(tmp_path)] == ["1", "2"]
    resumed.log_metrics({"b": 0.3}, 3)
    assert [(line["a"], line["b"]) for line in lines(tmp_path)] == [("0.1", ""), ("0.2", ""), ("", "0.3")]


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path: Path) -> None:
    position = log(tmp_path, 1, 2).state_dict()
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text() + "0.3")
    resumed = MetricsCSV(str(tmp_path))
    resumed.load_state_dict(position)
    resumed.log_metrics({"a": 0.3}, 3)
    assert [line["step"] for line in lines(tmp_path)] == ["1", "2", "3"]


def test_lines_of_another_history_are_dropped(tmp_path: Path) -> None:
    position = log(tmp_path / "one", 1, 2).state_dict()
    log(tmp_path / "other", 5, 6)
    resumed = MetricsCSV(str(tmp_path / "other"))
    resumed.load_state_dict(position)
    assert not (tmp_path / "other" / "metrics.csv").exists()
    assert (tmp_path / "other" / "metrics.csv.before").read_text().count("\n") == 3
    fresh = MetricsCSV(str(tmp_path / "fresh"))
    fresh.load_state_dict(position)
    fresh.log_metrics({"a": 0.3}, 3)
    assert [line["step"] for line in lines(tmp_path / "fresh")] == ["3"]


def test_a_file_that_is_killed_while_written_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    code = (
        "import os, signal, sys; sys.path.insert(0, 'src'); from lightning_maml.files import replacing\n"
        f"with replacing({str(path)!r}) as file:\n"
        "    file.write('half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL and path.read_text() == "before"
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(str(1 // 0))
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["file"]


class Noisy(nn.Module):
    """Logs what it draws, as its dropout might."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 5)
        self.drawn: list[tuple[float, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.drawn.append((float(torch.rand(())), random.random(), float(np.random.rand())))
        return self.linear(x.flatten(1))


def fit(
    folder: Path,
    *callbacks: pl.Callback,
    ckpt_path: str | None = None,
    accumulate: int = 1,
    network: Any = None,
    loop: Any = HigherLoop,
    lr: float = 0.01,
    **settings: Any,
) -> OuterLoop:
    """Six meta-batches an epoch; without validation unless asked for."""
    torch.manual_seed(0)
    learner = MAML(network or small_network())
    algorithm = OuterLoop(
        learner, loop(partial(torch.optim.SGD, lr=0.1)), partial(torch.optim.Adam, lr=lr), accumulate=accumulate
    )
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": [MetricsCSV(str(folder))],
        "inference_mode": False,
        "callbacks": [Resumption(0), *callbacks],
        "plugins": [AtomicCheckpointIO()],
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "default_root_dir": str(folder),
        "limit_val_batches": 0,
    }
    trainer = pl.Trainer(**(defaults | settings))
    trainer.fit(algorithm, datamodule=glyphs(batches=6), ckpt_path=ckpt_path, weights_only=True)
    return algorithm


def fit_steps(folder: Path, steps: int, **settings: Any) -> None:
    fit(folder, Checkpoint(str(folder), "last"), max_epochs=2, max_steps=steps, **settings)


def small_network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 5))


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_what_a_network_draws_depends_on_the_meta_batch_and_not_on_what_ran_before(tmp_path: Path) -> None:
    whole, first, second = Noisy(), Noisy(), Noisy()
    fit_steps(tmp_path / "whole", 8, network=whole)
    fit_steps(tmp_path / "parts", 4, network=first)
    fit_steps(tmp_path / "parts", 8, ckpt_path=str(tmp_path / "parts/last.ckpt"), network=second)
    assert whole.drawn == first.drawn + second.drawn
    per_meta_batch = len(whole.drawn) // 8
    of_batch = [whole.drawn[k : k + per_meta_batch] for k in range(0, len(whole.drawn), per_meta_batch)]
    for values in zip(*(zip(*drawn, strict=True) for drawn in of_batch), strict=True):
        assert len(set(values)) == 8  # of each generator


class OwnNoise(nn.Module):
    """Scales its output by what it draws from Python's generator and NumPy's."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1)) * (random.random() + float(np.random.rand()))


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("loop", [HigherLoop, VectorizedLoop, RecomputeLoop])
def test_a_resumed_run_has_the_weights_of_one_that_was_never_stopped(tmp_path: Path, loop: Any) -> None:
    """The first meta-batch of a process is also the one on which a loop checks the network."""
    for name, steps, first in (("whole", 8, None), ("parts", 4, None), ("parts", 8, str(tmp_path / "parts/last.ckpt"))):
        torch.manual_seed(0)
        fit_steps(tmp_path / name, steps, network=OwnNoise(), loop=loop, ckpt_path=first)
    one, other = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())


class SaveNow(pl.Callback):
    """Saves a checkpoint after one meta-batch, in the middle of a meta-update."""

    def __init__(self, path: Path, after: int) -> None:
        self._path, self._after = path, after

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if index + 1 == self._after:
            trainer.save_checkpoint(self._path)


def test_a_meta_update_that_was_begun_is_finished(tmp_path: Path) -> None:
    """Saved after the fourth of six meta-batches, three of which make one meta-update."""

    settings: dict[str, Any] = {"accumulate": 3, "max_epochs": 1}
    whole = fit(tmp_path / "whole", SaveNow(tmp_path / "middle.ckpt", after=4), **settings)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/metrics.csv").write_bytes(b"".join((tmp_path / "whole/metrics.csv").open("rb")))
    check_checkpoint(str(tmp_path / "middle.ckpt"), whole, whole.trainer)
    resumed = fit(tmp_path / "parts", ckpt_path=str(tmp_path / "middle.ckpt"), **settings)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts") and len(lines(tmp_path / "parts")) == 2


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_new_run_in_an_old_folder_starts_its_metrics_anew(tmp_path: Path) -> None:
    for _ in range(2):
        fit_steps(tmp_path, 3)
    assert [line["step"] for line in lines(tmp_path)] == ["1", "2", "3"]


def validated(folder: Path, *callbacks: pl.Callback, epochs: int, **settings: Any) -> None:
    """Each epoch followed by a validation; a checkpoint every three meta-updates."""
    best = Checkpoint(str(folder), "best", monitor="metaval/outer_loss")
    last = Checkpoint(str(folder), "last", every_n_steps=3)
    fit(folder, *callbacks, best, last, lr=0.3, max_epochs=epochs, **({"limit_val_batches": 1.0} | settings))


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("settings", [{}, {"val_check_interval": 3}, {"check_val_every_n_epoch": 2}])
def test_a_checkpoint_by_steps_does_not_stand_in_for_the_one_after_a_validation(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    validated(tmp_path / "whole", epochs=3, **settings)
    validated(tmp_path / "parts", epochs=1, **settings)
    validated(tmp_path / "parts", epochs=3, ckpt_path=str(tmp_path / "parts/last.ckpt"), **settings)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    one, other = (torch.load(tmp_path / name / "best.ckpt", weights_only=True) for name in ("whole", "parts"))
    assert one["global_step"] == other["global_step"]


class Stop(pl.Callback):
    """Ends a fit without an end after twenty meta-updates."""

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.global_step == 20


ENDS = [
    {"epochs": 3, "max_steps": 8},
    {"epochs": 3, "check_val_every_n_epoch": 2},
    {"epochs": 1, "val_check_interval": 4},
    {"epochs": 3, "max_steps": 3, "check_val_every_n_epoch": 2, "min_epochs": 2},
    {"epochs": -1, "check_val_every_n_epoch": 2},  # and stopped from outside, as by max_time
]


@pytest.mark.parametrize("settings", ENDS)
def test_a_fit_that_ends_between_validations_validates_once_more(tmp_path: Path, settings: dict[str, Any]) -> None:
    validated(tmp_path, Stop(), **settings)
    steps = [line["step"] for line in lines(tmp_path) if line["metaval/outer_loss"]]
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"]
    assert steps[-1:] == [str(last)] and len(steps) == len(set(steps))
    assert (tmp_path / "best.ckpt").exists()


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("first", ENDS[:2])
def test_a_run_that_goes_on_from_there_is_the_one_that_never_stopped(tmp_path: Path, first: dict[str, Any]) -> None:
    more = {name: value for name, value in first.items() if name not in ("epochs", "max_steps")}
    validated(tmp_path / "whole", epochs=4, **more)
    validated(tmp_path / "parts", **first)
    validated(tmp_path / "parts", epochs=4, ckpt_path=str(tmp_path / "parts/last.ckpt"), **more)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    one, other = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_validation_within_a_meta_update_leaves_its_gradient_alone(tmp_path: Path) -> None:
    validated(tmp_path / "often", epochs=1, accumulate=2, val_check_interval=3)
    validated(tmp_path / "never", epochs=1, accumulate=2, limit_val_batches=0)
    norms = [
        [line["metatrain/gradient_norm"] for line in lines(tmp_path / name) if line["metatrain/gradient_norm"]]
        for name in ("often", "never")
    ]
    assert norms[0] == norms[1] and len(norms[0]) == 3


@pytest.mark.parametrize("value", [0, -3, 1.5])
def test_every_n_steps_out_of_range(tmp_path: Path, value: Any) -> None:
    with pytest.raises(SettingError, match=f"every_n_steps={value}"):
        Checkpoint(str(tmp_path), "last", every_n_steps=value)


class Keeper(pl.Callback):
    """A user's, whose state is what it is given."""

    def __init__(self, value: Any) -> None:
        self.value, self.seen = value, 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, Any]:
        return {"best": [self.value]}


class Object:
    pass


@pytest.mark.parametrize("value", [np.float64(0.5), Path("x"), Object(), lambda: 0, deep(60)], ids=type)
def test_a_callback_that_would_make_checkpoints_unreadable_is_refused(tmp_path: Path, value: Any) -> None:
    keeper = Keeper(value)
    last = Checkpoint(str(tmp_path / "checkpoints"), "last", every_n_steps=3)
    said = "callbacks=Keeper: what it keeps in checkpoints could not be read again"
    with pytest.raises(SettingError, match=f"^{said}"):
        fit(tmp_path, keeper, last)
    assert keeper.seen == 0
    assert not list(tmp_path.glob("checkpoints/*")) and not list(tmp_path.glob("checkpoints/.*"))
