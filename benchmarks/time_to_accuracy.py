"""Wall time to 95 % on 5-way 1-shot Omniglot: this project, and the examples that its peers ship.

    python benchmarks/time_to_accuracy.py [--goal 0.95] [--limit 60] [--every 60] [--tasks 500] [--only ours …]

One after another, each with the settings of its own example and from the same seed, until it reaches the goal or the
limit (minutes). The clock stands still while the network is tested: by one procedure for all, on the same meta-test
tasks of the Vinyals split, 15 queries per class (as both peers' examples have), with as many inner steps as the
example takes. TorchOpt's tutorial tests after a single inner step, by a slip of indentation; that is corrected here.
Its data come from this project's loader, which is not slower than its own arrays. The last line is one JSON object.
"""

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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

from lightning_maml import command_line
from lightning_maml.algorithms import MAML, OuterLoop
from lightning_maml.allocator import keep_freed_memory
from lightning_maml.episodes import Episodes
from lightning_maml.inner_loops import Learner, Trajectory, VectorizedLoop
from lightning_maml.models import Conv4

OURS = "this project"
# what this project would be told for the same purpose: its published settings, with half of the network's width
MAML_SETTINGS = (
    *("experiment=omniglot/maml_5way_1shot", "model=conv4_small", "inner_loop=vectorized", "logging=csv"),
    *("data.datamodule.kshot.query=5", "data.datamodule.batch_size.train=4"),
)
PROTONET_SETTINGS = ("experiment=omniglot/protonet_5way_1shot", "model=conv4_small", "logging=csv")


@dataclass
class Race:
    """A clock that stands still while the network is tested.

    Attributes:
        goal: the accuracy at which it ends.
        limit, every: seconds after which it ends at the latest, and between tests.
        tasks: the meta-test tasks.
        found: seconds and accuracy at each test.
    """

    goal: float
    limit: float
    every: float
    tasks: list[Episodes]
    found: list[tuple[float, float]] = field(default_factory=list)
    updates: int = 0
    _spent: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    def after_update(self, learner: Learner, lr: float, steps: int) -> bool:
        """Count a meta-update, and test where it is time to. Whether the race is over."""
        self.updates += 1
        spent = self._spent + time.monotonic() - self._since
        if spent - (self.found[-1][0] if self.found else 0) < self.every:
            return False
        accuracy = tested(learner, self.tasks, lr, steps)
        self.found.append((spent, accuracy))
        print(f"  {spent / 60:6.1f} min, {self.updates} meta-updates: {accuracy:.2%}", flush=True)
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
        return compose("default", overrides=list(settings))


def data_of(cfg: Any) -> Any:
    """The datamodule of a configuration, ready."""
    data = hydra.utils.instantiate(cfg.data.datamodule)
    data.setup()
    return data


def ours(race: Race, settings: Sequence[str]) -> None:
    cfg = composed(*settings)
    network = hydra.utils.instantiate(cfg.model.torch_module, input_shape=(1, 28, 28), num_outputs=5)
    algorithm: OuterLoop = hydra.utils.instantiate(
        cfg.algorithm, learner=hydra.utils.instantiate(cfg.algorithm.learner, network=network)
    )

    class Referee(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
            trainer.should_stop = race.after_update(
                algorithm.learner, cfg.data.inner_lr, cfg.algorithm.eval_inner_steps
            )

    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=-1, limit_val_batches=0, enable_model_summary=False, callbacks=[Referee()], devices=1, **quiet
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
    data = data_of(composed(*MAML_SETTINGS, "data.datamodule.kshot.query=15", "data.datamodule.batch_size.train=32"))

    def batches() -> Iterator[Episodes]:
        while True:
            yield from data.train_dataloader()

    meta_train(race, "TorchOpt MetaSGD", network, batches(), steps=5, lr=0.1)


def torchmeta_and_higher(race: Race) -> None:
    """examples/maml-higher of torchmeta: its loader, one step of 0.4 by higher, 16 tasks."""
    root = os.environ.get("DATASET_PATH", "./data")
    dataset = omniglot(root, shots=1, ways=5, shuffle=True, test_shots=15, meta_train=True, download=True)
    loader = BatchMetaDataLoader(dataset, batch_size=16, shuffle=True, num_workers=1)
    batches = (Episodes(*batch["train"], *batch["test"]) for batch in loader)
    meta_train(race, "raw higher", Conv4((1, 28, 28), 5), batches, steps=1, lr=0.4)


CONTENDERS: dict[str, tuple[str | None, Callable[[Race], None]]] = {
    OURS: (None, partial(ours, settings=MAML_SETTINGS)),
    "this project, algorithm=protonet": (None, partial(ours, settings=PROTONET_SETTINGS)),
    "TorchOpt's tutorial": ("TorchOpt MetaSGD", torchopt_tutorial),
    "torchmeta and raw higher": ("raw higher", torchmeta_and_higher),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--goal", type=float, default=0.95)
    parser.add_argument("--limit", type=float, default=60, help="minutes for each")
    parser.add_argument("--every", type=float, default=60, help="seconds between tests")
    parser.add_argument("--tasks", type=int, default=500, help="meta-test tasks")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    arguments = parser.parse_args()
    keep_freed_memory()
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    test = (f"data.datamodule.batches.test={arguments.tasks // 20}", "data.datamodule.kshot.query=15")
    data = data_of(composed(*MAML_SETTINGS, *test))
    tasks, found = list(data.test_dataloader()), {}
    for name in arguments.only:
        peer, run = CONTENDERS[name]
        if peer is not None and peer not in installed()[0]:
            print(f"{name}: not installed")
            continue
        print(name, flush=True)
        pl.seed_everything(0, verbose=False)
        race = Race(arguments.goal, 60 * arguments.limit, arguments.every, tasks)
        run(race)
        found[name] = race
    show(found, arguments.goal)


def show(found: dict[str, Race], goal: float) -> None:
    """A table of when each reached the goal, and as JSON its whole course."""
    reached = {name: race.found[-1][0] for name, race in found.items() if race.found[-1][1] >= goal}
    table = Table("", f"minutes to {goal:.0%}", "× this project", "meta-updates", "accuracy at the end")
    for name, race in found.items():
        seconds, accuracy = race.found[-1]
        ratio = f"{seconds / reached[OURS]:.1f}" if OURS in reached else "?"
        more = "" if name in reached else "> "
        table.add_row(name, f"{more}{seconds / 60:.1f}", more + ratio, f"{race.updates:,}", f"{accuracy:.2%}")
    Console(width=120).print(table)
    courses = {name: {"seconds_and_accuracy": race.found, "updates": race.updates} for name, race in found.items()}
    print(json.dumps({"goal": goal, "reached": reached, "courses": courses}))


if __name__ == "__main__":
    main()
