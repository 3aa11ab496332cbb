"""What it costs that a prediction depends on its image alone (`transductive=false` of src/adapt.py).

    python benchmarks/support_statistics.py RUN [--checkpoint best.ckpt] [--tasks 200] [--queries 5]

Adapts the checkpoint of a run on the run's own meta-test tasks in both ways: batch norm by the statistics of the
support set, and by those of the query images together, as in training and in the papers. Prints a table; the last line
is one JSON object.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from lightning_maml.few_shot import FewShotLearner
from lightning_maml.shell import command_line  # noqa: F401  # registers the resolvers that the configurations use
from lightning_maml.training import ci95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--checkpoint", default="best.ckpt", help="in its checkpoints/, or a path")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--queries", type=int, default=None, help="of each class; by default as many as in the run")
    arguments = parser.parse_args()
    cfg: Any = OmegaConf.load(arguments.run / ".hydra" / "config.yaml")
    if arguments.queries is not None:
        cfg.data.datamodule.kshot.query = arguments.queries
    data: Any = hydra.utils.instantiate(cfg.data.datamodule)
    data.prepare_data()
    data.setup("test")
    learner = FewShotLearner.load(arguments.run / "checkpoints" / arguments.checkpoint)
    found: dict[bool, list[float]] = {True: [], False: []}
    tasks = (task for episodes in data.test_dataloader() for task in episodes.tasks())
    for task in itertools.islice(tasks, arguments.tasks):
        for transductive, accuracies in found.items():
            classifier = learner.adapt(list(task.support_x), task.support_y.tolist(), transductive=transductive)
            accuracies.append(float((classifier(task.query_x).argmax(dim=1) == task.query_y).float().mean()))
    table = Table("batch norm by", "accuracy", "95 % interval")
    together, alone = (torch.tensor(found[key])[:, None] for key in (True, False))
    results = {}
    for name, values in (("query set", together), ("support set", alone), ("difference", alone - together)):
        results[name] = [float(values.mean()), float(ci95(values))]
        table.add_row(name, *(f"{value:.2%}" for value in results[name]))
    Console(width=100).print(table)
    print(json.dumps({"tasks": len(alone), **results}))


if __name__ == "__main__":
    main()
