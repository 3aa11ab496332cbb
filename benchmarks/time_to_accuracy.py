"""Wall time to 95 % on 5-way 1-shot Omniglot: this project, and the examples that its peers ship.

    python benchmarks/time_to_accuracy.py [--goal 0.95] [--limit 60] [--every 90] [--tasks 500] [--only NAME …]

All at the same time, each on a core of its own, so that whatever else the machine does befalls all alike; from the same
seed, until one reaches the goal or the limit (minutes). Peers have the settings of their own examples, this project
those that it would be given for the same purpose. The clock stands still while the network is tested: by one procedure
for all, on the same meta-test tasks of the Vinyals split (a fifth of them, and all where that reaches the goal), 15
queries per class (with which all are trained), with as many inner steps as in training. TorchOpt's tutorial tests after
a single inner step, by a slip of indentation; that is corrected here. Its data come from this
project's loader, which is not slower than its own arrays. The last line is one JSON object.
"""

import argparse
import itertools
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from peers import PEERS, installed
from rich.console import Console
from rich.table import Table
from torch import nn
from torchmeta.datasets.helpers import omniglot
from torchmeta.utils.data import BatchMetaDataLoader

from lightning_maml.algorithms import MAML
from lightning_maml.episodes import Episodes
from lightning_maml.inner_loops import Learner, Trajectory, VectorizedLoop
from lightning_maml.models import Conv4
from lightning_maml.shell import command_line
from lightning_maml.shell.allocator import keep_freed_memory
from lightning_maml.training import OuterLoop

OURS = "this project"
# MAML's own network at half its width, a fast loop, few tasks in a meta-batch, a schedule of about 18 minutes
SETTINGS = (
    *("experiment=omniglot/maml_5way_1shot", "model=conv4_small", "inner_loop=vectorized", "logging=csv"),
    *("data.datamodule.kshot.query=15", "data.datamodule.batch_size.train=4", "optim.outer_optimizer.lr=0.002"),
    *("optim=adam_cosine", "train.pl_trainer.max_steps=11000"),
)


@dataclass
class Course:
    """Seconds and accuracy at each test, and the meta-updates in all."""

    found: list[tuple[float, float]] = field(default_factory=list)
    updates: int = 0


@dataclass
class Race:
    """A clock that stands still while the network is tested.

    Attributes:
        name: who runs.
        goal: the accuracy at which it ends.
        limit, every: seconds after which it ends at the latest, and between tests.
        tasks: the meta-test tasks.
        course: what has come of it.
    """

    name: str
    goal: float
    limit: float
    every: float
    tasks: list[Episodes]
    course: Course = field(default_factory=Course)
    _spent: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    def after_update(self, learner: Learner, lr: float, steps: int) -> bool:
        """Count a meta-update, and test where it is time to. Whether the race is over."""
        self.course.updates += 1
        spent = self._spent + time.monotonic() - self._since
        if spent - self._spent < self.every:
            return False
        accuracy = tested(learner, self.tasks[: len(self.tasks) // 5], lr, steps)
        if accuracy >= self.goal:  # perhaps by chance
            accuracy = tested(learner, self.tasks, lr, steps)
        self.course.found.append((spent, accuracy))
        at = f"{spent / 60:.1f} min, {self.course.updates} meta-updates"
        print(f"{self.name}, {at}: {accuracy:.2%}", file=sys.stderr, flush=True)
        self._spent, self._since = spent, time.monotonic()
        return accuracy >= self.goal or spent >= self.limit


def tested(learner: Learner, tasks: list[Episodes], lr: float, steps: int) -> float:
    """Mean query accuracy after `steps` inner steps."""
    loop = VectorizedLoop(partial(torch.optim.SGD, lr=lr))
    found = Trajectory.concatenate([loop(learner, episodes, steps=steps)[0] for episodes in tasks])
    assert found.query_accuracy is not None
    return float(found.query_accuracy[:, -1].mean())


def composed(*settings: str) -> Any:
    with initialize_config_dir(str(command_line.ROOT / "conf"), version_base="1.3"):
        return compose("default", overrides=[*SETTINGS, *settings])


def data_of(cfg: Any) -> Any:
    """The datamodule of a configuration, ready."""
    data = hydra.utils.instantiate(cfg.data.datamodule)
    data.setup()
    return data


def ours(race: Race) -> None:
    cfg = composed()
    network = hydra.utils.instantiate(cfg.model.torch_module, input_shape=(1, 28, 28), num_outputs=5)
    algorithm: OuterLoop = hydra.utils.instantiate(
        cfg.algorithm, learner=hydra.utils.instantiate(cfg.algorithm.learner, network=network)
    )

    class Referee(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
            trainer.should_stop = race.after_update(
                algorithm.learner, cfg.data.inner_lr, cfg.algorithm.eval_inner_steps
            )

    noisy = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet: dict[str, Any] = dict.fromkeys(noisy, False)
    trainer = pl.Trainer(
        max_epochs=-1,
        limit_val_batches=0,
        callbacks=[Referee()],
        accelerator="cpu",
        **quiet,
    )
    trainer.fit(algorithm, datamodule=data_of(cfg))


def meta_train(race: Race, peer: str, network: nn.Module, batches: Iterator[Episodes], steps: int, lr: float) -> None:
    """A peer's loop: its own gradient of each meta-batch, then Adam."""
    make, optimizer = PEERS[peer][1], torch.optim.Adam(network.parameters(), lr=1e-3)
    for episodes in batches:
        make(network, episodes, steps, lr)()  # leaves the gradient in the parameters
        optimizer.step()
        if race.after_update(MAML(network), lr, steps):
            return


def torchopt_tutorial(race: Race) -> None:
    """examples/few-shot/maml_omniglot.py of TorchOpt: three blocks without padding, five steps of 0.1, 32 tasks."""
    network = Conv4((1, 28, 28), 5, num_layers=3, padding=0)
    data = data_of(composed("data.datamodule.batch_size.train=32"))

    def batches() -> Iterator[Episodes]:
        loader = data.train_dataloader()
        for epoch in itertools.count():  # of other tasks each
            loader.sampler.set_epoch(epoch)
            yield from loader

    meta_train(race, "TorchOpt MetaSGD", network, batches(), steps=5, lr=0.1)


def torchmeta_and_higher(race: Race) -> None:
    """examples/maml-higher of torchmeta: its loader, one step of 0.4 by higher, 16 tasks."""
    root = os.environ.get("DATASET_PATH", "./data")
    dataset = omniglot(root, shots=1, ways=5, shuffle=True, test_shots=15, meta_train=True, download=True)
    loader = BatchMetaDataLoader(dataset, batch_size=16, shuffle=True, num_workers=1)
    batches = (Episodes(*batch["train"], *batch["test"]) for batch in loader)
    meta_train(race, "raw higher", Conv4((1, 28, 28), 5), batches, steps=1, lr=0.4)


CONTENDERS: dict[str, tuple[str | None, Callable[[Race], None]]] = {
    OURS: (None, ours),
    "TorchOpt's tutorial": ("TorchOpt MetaSGD", torchopt_tutorial),
    "torchmeta and raw higher": ("raw higher", torchmeta_and_higher),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--goal", type=float, default=0.95)
    parser.add_argument("--limit", type=float, default=60, help="minutes for each")
    parser.add_argument("--every", type=float, default=90, help="seconds between tests")
    parser.add_argument("--tasks", type=int, default=500, help="meta-test tasks")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)  # of one, for the program itself
    arguments = parser.parse_args()
    if arguments.json:
        run_alone(arguments.only[0], arguments)
        return
    able = [name for name in arguments.only if CONTENDERS[name][0] in (None, *installed()[0])]
    print(*(f"{name}: not installed" for name in arguments.only if name not in able), sep="\n")
    show(together(able), arguments.goal)


def together(names: Sequence[str]) -> dict[str, Course]:
    """Start all, each on a core, and wait for them."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < len(names):
        sys.exit(f"error: {len(names)} contenders want a core each, and there are {len(cores)}; choose some by --only")
    processes = {}
    for name, core in zip(names, cores, strict=False):
        command = ["taskset", "-c", str(core), sys.executable, *sys.argv, "--json", "--only", name]
        settings = {**os.environ, "OMP_NUM_THREADS": "1"}
        processes[name] = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, text=True)
    lines = {name: process.communicate()[0].splitlines() for name, process in processes.items()}
    return {name: Course(**json.loads(found[-1])) for name, found in lines.items() if found}


def run_alone(name: str, arguments: argparse.Namespace) -> None:
    """Run one, and print its course as JSON."""
    keep_freed_memory()
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    tasks = list(data_of(composed(f"data.datamodule.batches.test={arguments.tasks // 20}")).test_dataloader())
    pl.seed_everything(0, verbose=False)
    race = Race(name, arguments.goal, 60 * arguments.limit, arguments.every, tasks)
    CONTENDERS[name][1](race)
    print(json.dumps(asdict(race.course)))


def show(courses: Mapping[str, Course], goal: float) -> None:
    """A table of when each reached the goal, and as JSON its whole course."""
    reached = {name: one.found[-1][0] for name, one in courses.items() if one.found[-1][1] >= goal}
    table = Table("", f"minutes to {goal:.0%}", "× this project", "meta-updates", "accuracy at the end")
    for name, one in courses.items():
        seconds, accuracy = one.found[-1]
        ratio = f"{seconds / reached[OURS]:.1f}" if OURS in reached else "?"
        more = "" if name in reached else "> "
        table.add_row(name, f"{more}{seconds / 60:.1f}", more + ratio, f"{one.updates:,}", f"{accuracy:.2%}")
    Console(width=120).print(table)
    print(json.dumps({"goal": goal, "reached": reached, "courses": {n: asdict(one) for n, one in courses.items()}}))


if __name__ == "__main__":
    main()
