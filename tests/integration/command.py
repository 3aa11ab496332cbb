"""Run src/run.py as a person does: a subprocess in the project's root."""

import os
import subprocess
import sys
from pathlib import Path

from tests.paths import DATASET_PATH, ROOT

TINY = (
    "data=glyphs",
    "model=conv4_small",
    "model.torch_module.num_filters=4",
    "data.datamodule.kshot.support=1",
    "data.datamodule.kshot.query=2",
    "data.datamodule.batch_size.train=2",
    "data.datamodule.batch_size.val=2",
    "data.datamodule.batch_size.test=3",
    "data.datamodule.batches.train=3",
    "data.datamodule.batches.val=1",
    "data.datamodule.batches.test=2",
    "data.datamodule.num_workers.train=0",
    "train.pl_trainer.max_epochs=2",
    "train.pl_trainer.log_every_n_steps=1",
    "train.pl_trainer.accelerator=cpu",
)


def environment(**changes: str) -> dict[str, str]:
    return os.environ | {"DATASET_PATH": str(DATASET_PATH), "OMP_NUM_THREADS": "1"} | changes


def tiny(*arguments: str) -> tuple[str, ...]:
    """TINY and `arguments`, without what TINY says of the groups that they pick otherwise."""
    picked = {argument.partition("=")[0] for argument in arguments}
    small = {"model.torch_module.num_filters"} if "model" in picked else set()
    return tuple(setting for setting in TINY if setting.partition("=")[0] not in picked | small) + arguments


def run(
    *arguments: str, folder: Path | None = None, timeout: int = 300, **env: str
) -> subprocess.CompletedProcess[str]:
    """`python src/run.py ARGUMENTS`, its run folder in `folder`."""
    where = [] if folder is None else [f"hydra.run.dir={folder}"]
    return subprocess.run(
        [sys.executable, "src/run.py", *arguments, *where],
        cwd=ROOT,
        env=environment(**env),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
        check=False,
    )


def succeed(*arguments: str, folder: Path | None = None, **env: str) -> str:
    """Its output, after checking that it succeeded."""
    done = run(*arguments, folder=folder, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
