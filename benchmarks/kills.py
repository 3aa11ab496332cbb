"""Runs killed by SIGKILL at random moments, and whether what follows ends as if nothing had happened.

    python benchmarks/kills.py [--kills 30] [--seed 0]

Each sequence starts on an empty folder with Omniglot from a server on this machine, and is killed while it prepares the
data, within an epoch, and at any moment, then started again (from its last checkpoint if there is one) until it ends.
Weights, optimizer state and metrics.csv must equal those of a run that nobody killed. At last, eight processes start at
once on an empty folder. The last line is one JSON object.
"""

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from tests import omniglot_server  # noqa: E402
from tests.integration.checkpoints import same_state  # noqa: E402

SETTINGS = (
    *("data=omniglot", "data.datamodule.kshot.support=1", "data.datamodule.kshot.query=2", "logging=csv"),
    *("data.datamodule.batch_size.train=2", "data.datamodule.batch_size.val=2", "data.datamodule.batch_size.test=2"),
    *("data.datamodule.batches.train=40", "data.datamodule.batches.val=2", "data.datamodule.batches.test=2"),
    *(
        "model=mlp",
        "model.torch_module._target_=tests.integration.dropout.DropoutMLP",
        "~model.torch_module.hidden_sizes",
    ),
    *("+optim.inner_optimizer.momentum=0.9", "algorithm.num_inner_steps=2", "train.checkpoint.every_n_steps=3"),
    *("train.pl_trainer.max_epochs=3", "train.pl_trainer.log_every_n_steps=1", "train.pl_trainer.accelerator=cpu"),
)


class Sequence:
    """One folder for a run and its data, and the run's processes in it, one after another."""

    def __init__(self, folder: Path, url: str, archives: Path) -> None:
        self.folder = folder
        self._url = url
        self._archives = archives
        folder.mkdir(parents=True)

    @property
    def last(self) -> Path:
        return self.folder / "run" / "checkpoints" / "last.ckpt"

    def start(self, run: str = "run") -> "subprocess.Popen[str]":
        resume = [f"train.ckpt_path={self.last}"] if self.last.exists() else []
        return subprocess.Popen(
            [
                *(sys.executable, "tests/omniglot_server.py", self._url, str(self._archives), "1623", "src/run.py"),
                *(*SETTINGS, *resume, f"hydra.run.dir={self.folder / run}"),
            ],
            cwd=ROOT,
            env=os.environ
            | {
                "DATASET_PATH": str(self.folder / "data"),
                "XDG_CACHE_HOME": str(self.folder / "cache"),
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> Any:
        """Let it run to its end. Returns what must be the same each time."""
        process = self.start()
        output, _ = process.communicate(timeout=300)
        if process.returncode != 0:
            raise RuntimeError(output)
        checkpoint = torch.load(self.last, weights_only=True)
        with (self.folder / "run/metrics.csv").open(newline="") as file:
            metrics = list(csv.DictReader(file))
        results = json.loads((self.folder / "run/metrics.json").read_text())
        return checkpoint["state_dict"], checkpoint["optimizer_states"], checkpoint["global_step"], metrics, results

    def kill(self, when: str, chance: random.Random) -> str:
        """Start it, and kill it at a random moment of a stage. Returns in which stage it was."""
        process = self.start()
        aside = self.folder / "data" / ".preparing"
        if when == "preparation":
            _wait(process, aside.exists)
            time.sleep(chance.uniform(0, 5))
        elif when == "epoch":
            _wait(process, lambda: (self.folder / "run/metrics.csv").exists())
            time.sleep(chance.uniform(0, 1.0))
        else:
            time.sleep(chance.uniform(0.5, 15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        return self._stage(process.returncode)

    def _stage(self, code: int) -> str:
        if code != -signal.SIGKILL:
            return "had ended"
        cache = self.folder / "cache" / "lightning-maml"
        if not (self.folder / "data/omniglot/.manifest.json").exists():
            return "preparation" if (self.folder / "data").exists() else "start"
        if (
            len([path for path in (cache.iterdir() if cache.exists() else ()) if path.name[0] != "." and path.is_dir()])
            < 3
        ):
            return "caching"
        if not self.last.exists():
            return "before the first checkpoint"
        step = torch.load(self.last, weights_only=True)["global_step"]
        return "within an epoch" if step % 40 else "between epochs, or after"


def _wait(process: "subprocess.Popen[str]", condition: Any) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance, console = random.Random(arguments.seed), Console(width=110)
    with tempfile.TemporaryDirectory() as folder:
        archives = Path(folder, "archives")
        archives.mkdir()
        omniglot_server.write_archives(archives, omniglot_server.splits())
        with omniglot_server.serving(archives) as (url, _):
            whole = Sequence(Path(folder, "whole"), url, archives).end()
            stages: Counter[str] = Counter()
            identical = sequences = 0
            while stages.total() < arguments.kills:
                sequence = Sequence(Path(folder, str(sequences)), url, archives)
                for when in ("preparation", "any", "epoch"):
                    stages[sequence.kill(when, chance)] += 1
                identical += same_state(sequence.end(), whole)
                sequences += 1
                console.print(f"{stages.total()} kills, {identical} of {sequences} sequences ended identical")
                shutil.rmtree(sequence.folder)
            together = Sequence(Path(folder, "together"), url, archives)
            processes = [together.start(str(number)) for number in range(8)]
            outputs = [process.communicate(timeout=600)[0] for process in processes]
            successes = sum(process.returncode == 0 for process in processes)
            preparations = "".join(outputs).count("] preparing Omniglot in")
    table = Table(title="SIGKILL")
    table.add_column("killed in")
    table.add_column("times", justify="right")
    for stage, count in stages.most_common():
        table.add_row(stage, str(count))
    console.print(table)
    console.print(f"{identical} of {sequences} sequences ended bit-identical to the run that nobody killed")
    console.print(f"8 processes at once: {preparations} preparation, {successes} successes")
    result = {"kills": dict(stages), "sequences": sequences, "identical": identical}
    print(json.dumps(result | {"at_once": {"preparations": preparations, "successes": successes}}))


if __name__ == "__main__":
    main()
