"""Runs killed by SIGKILL, and what comes after."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import omniglot_server
from tests.integration.command import TELLING, environment, started, succeed, tiny, wait_for
from tests.integration.ends import end_of, learned, rows, same_state
from tests.paths import ROOT


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_a_run_killed_in_an_epoch_and_resumed_equals_one_that_never_stopped(tmp_path: Path, cache: str) -> None:
    """Momentum in both loops, dropout; weights, optimizer state and metrics.csv bit for bit."""
    settings = (*tiny("model=mlp", *TELLING), f"data.datamodule.cache={cache}")
    python_path = {"PYTHONPATH": str(ROOT)}
    succeed(*settings, folder=tmp_path / "whole", **python_path)
    parts = tmp_path / "parts"
    process = started(*settings, f"hydra.run.dir={parts}")
    last = parts / "checkpoints" / "last.ckpt"
    wait_for(lambda: last.exists() and len(rows(parts)) > 5)
    process.kill()
    process.communicate()
    stopped_at = learned(parts)["global_step"]
    assert 0 < stopped_at < 200 and stopped_at % 100, "the test was too late: it is in the middle of an epoch"
    succeed(*settings, f"train.ckpt_path={last}", folder=parts, **python_path)
    assert same_state(end_of(parts), end_of(tmp_path / "whole"))
    assert learned(parts)["global_step"] == 200 and len(end_of(parts)["metrics.csv"]) == 202


def test_eight_runs_at_once_on_an_empty_folder_prepare_it_once(tmp_path: Path) -> None:
    """Each is run.py itself, with Omniglot from a server on this machine."""
    archives = tmp_path / "archives"
    archives.mkdir()
    omniglot_server.write_archives(archives, omniglot_server.splits(8))
    settings = tiny("data=omniglot", "data.datamodule.kshot.query=1", "logging=csv", "train.pl_trainer.max_epochs=1")
    with omniglot_server.serving(archives) as (url, requests):
        started = [
            subprocess.Popen(
                [
                    *(sys.executable, "tests/omniglot_server.py", url, str(archives), "8", "src/run.py", *settings),
                    f"hydra.run.dir={tmp_path / str(number)}",
                ],
                cwd=ROOT,
                env=environment(
                    DATASET_PATH=str(tmp_path / "data"), XDG_CACHE_HOME=str(tmp_path / "cache"), PYTHONPATH=str(ROOT)
                ),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number in range(8)
        ]
        outputs = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0] * 8, outputs
    assert len(requests) == 4  # torchvision asks twice for each of two archives
    assert "".join(outputs).count("] preparing Omniglot in") == 1
    assert "".join(outputs).count("samples of 32 classes") == 1  # the training split, with its rotations
    results = [json.loads((tmp_path / str(number) / "metrics.json").read_text()) for number in range(8)]
    assert all(result == results[0] for result in results)
