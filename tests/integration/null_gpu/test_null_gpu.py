"""Every loop, learner and program on a GPU that computes nothing: what stops there stops on a real one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.null_gpu import stub
from tests.integration.null_gpu.runs import RUNS
from tests.integration.null_gpu.waits import NAME
from tests.paths import ROOT

pytestmark = pytest.mark.skipif(stub.why_not() is not None, reason=str(stub.why_not()))


@pytest.fixture(scope="module")
def null_gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return os.environ | stub.build(tmp_path_factory.mktemp("null_gpu"))


def on_null_gpu(env: dict[str, str], program: str, argument: str | Path) -> str:
    command = [sys.executable, "-m", f"tests.integration.null_gpu.{program}", str(argument)]
    env = env | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("network", "attempts"), [("conv4", 432), ("resnet12", 432), ("mlp", 480), ("transformer", 432)]
)
def test_every_loop_and_learner_in_float32_and_bfloat16(null_gpu: dict[str, str], network: str, attempts: int) -> None:
    assert on_null_gpu(null_gpu, "matrix", network).splitlines() == [f"tried: {attempts}"]


def test_runs_from_fit_to_pictures_that_wait_once_for_each_meta_update(
    null_gpu: dict[str, str], tmp_path: Path
) -> None:
    ends = on_null_gpu(null_gpu, "runs", tmp_path).splitlines()
    logs = "\n".join((tmp_path / f"{name}.log").read_text() for name, code in map(str.split, ends) if code != "0")
    assert ends[:-1] == [*(f"{name} 0" for name in RUNS), "adapt 0"], logs
    # Its file is compared with PyTorch, and both read unwritten memory here: only that may stop it.
    assert ends[-1] == "onnx 0" or "its probabilities differ from PyTorch's by nan" in logs, logs
    for name in RUNS:
        run = tmp_path / name
        for picture in ("curves.png", "episode.png", "adaptation.png"):
            assert (run / picture).exists() or (picture == "adaptation.png" and name in ("protonet", "r2d2"))
        assert "metatest" in (run / "metrics.csv").read_text()
        waits = json.loads((run / NAME).read_text())
        assert [count for index, count in enumerate(waits) if index != 2] == [1, 1, 1, 1], name
        assert waits[2] <= 3, name  # the fourth meta-update is logged
    assert {"predictions.csv", "predictions.png", "classifier.pt"} <= {
        path.name for path in (tmp_path / "adapt").iterdir()
    }
