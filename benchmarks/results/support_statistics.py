"""What it costs that a prediction depends on its image alone (`transductive=false` of src/adapt.py).

    python -m benchmarks.results.support_statistics RUN [--checkpoint best.ckpt] [--tasks 200] [--queries 5]

Adapts the checkpoint of a run on the run's own meta-test tasks in both ways: batch norm by the statistics of the
support set, and by those of the query images together, as in training and in the papers. Prints a table; the last line
is one JSON object.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from benchmarks.project import data_of
from benchmarks.timing import report
from lightning_maml.few_shot import FewShotLearner
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
    learner = FewShotLearner.load(arguments.run / "checkpoints" / arguments.checkpoint)
    found: dict[bool, list[float]] = {True: [], False: []}
    tasks = (task for episodes in data_of(cfg, "test").test_dataloader() for task in episodes.tasks())
    for task in itertools.islice(tasks, arguments.tasks):
        for transductive, accuracies in found.items():
            classifier = learner.adapt(list(task.support_x), task.support_y.tolist(), transductive=transductive)
            accuracies.append(float((classifier(task.query_x).argmax(dim=1) == task.query_y).float().mean()))
    together, alone = (torch.tensor(found[key])[:, None] for key in (True, False))
    compared = {"query set": together, "support set": alone, "difference": alone - together}
    results = {name: [float(values.mean()), float(ci95(values))] for name, values in compared.items()}
    rows = [(name, *(f"{value:.2%}" for value in values)) for name, values in results.items()]
    title = f"Accuracy over {len(alone)} tasks"
    report(title, ("batch norm by", "accuracy", "95 % interval"), rows, {"tasks": len(alone), **results})


if __name__ == "__main__":
    main()
