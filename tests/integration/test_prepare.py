"""python src/prepare.py: everything but the training."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.command import program
from tests.torchmeta_files import write


def prepare(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return program("src/prepare.py", *arguments, **env)


@pytest.mark.parametrize(
    ("name", "samples", "facts"),
    [
        ("cub", 12, ["│ train │       5 │                12 │ 3×84×84 │ disk, uint8 │"]),
        ("letter", 12, ["│ test  │       5 │                12 │ 16    │ disk, float64 │"]),
        ("sinusoid", 0, ["endless"]),
    ],
)
def test_it_prints_what_is_there_and_draws_a_task_of_each_split(
    name: str, samples: int, facts: list[str], tmp_path: Path
) -> None:
    if samples:
        write(name, tmp_path, samples)
    overrides = [f"data={name}", f"hydra.run.dir={tmp_path / 'run'}"]
    if samples:
        overrides.append("data.datamodule.kshot.query=5")
    done = prepare(*overrides, DATASET_PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr
    for fact in facts:
        assert fact in done.stdout
    pixels = np.asarray(Image.open(tmp_path / "run" / "samples.png").convert("RGB"))
    assert pixels.shape[1] == 1440 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    if samples:
        assert f"cached in {tmp_path / 'cache' / 'lightning-maml'}" in done.stdout
        again = prepare(*overrides, DATASET_PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert "caching" not in again.stdout
    if name == "letter":
        again = prepare(*overrides, "refresh=true", DATASET_PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert again.stdout.count("caching the") == 3


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    done = prepare("data=image_folder", f"data.root={tmp_path}/none", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: data.root={tmp_path}/none: there is no such folder; give the one that holds your data"
    ]
