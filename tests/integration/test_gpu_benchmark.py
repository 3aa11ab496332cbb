"""benchmarks/gpu.py: every part of it runs, in small and on a CPU."""

import json
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import requires
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import gpu
from benchmarks.timing import rounds_of
from tests.integration.command import environment, program
from tests.paths import ROOT


def as_forks(arguments: tuple[str, ...], seconds: float) -> tuple[int, str]:
    """Stand in for `gpu.launch`, without the seconds that each part's imports take."""
    name, *rest = (
        arguments if arguments[0] != "-m" else (str(Path(pytest.__file__).with_name("__main__.py")), *arguments[2:])
    )
    done = program(name, *rest, PYTHONPATH=str(ROOT))
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def test_every_part_runs_in_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "launch", as_forks)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device=cpu", "--quick", f"--out={tmp_path / 'gpu.json'}"])
    assert gpu.main() == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name: row["status"] for name, row in result["parts"].items()} == dict.fromkeys(result["parts"], "ok")
    found = {name: row["found"] for name, row in result["parts"].items()}
    assert found["training, device_resident"]["meta_updates"] == 3
    assert found["training"]["tasks_per_second"] == pytest.approx(2 * 3 / found["training"]["seconds"])
    (shape,) = found["inner loops, float32"]["shapes"].values()
    assert set(shape["seconds"]) >= {"higher", "vectorized", "torchmeta"} and max(shape["errors"].values()) < 1e-9


def test_a_part_that_fails_or_takes_too_long_is_a_row_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = [
        gpu.Part("tests", ("-c", "print('1 failed'); raise SystemExit(1)"), (), 60),
        gpu.Part("slow", ("-c", "import time; print('{\"a\": 1}', flush=True); time.sleep(60)"), (), 2),
        gpu.Part("lacking", ("-c", ""), ("no-such-package",), 60),
        gpu.Part("last", ("-c", "print('{\"b\": 2}')"), (), 60),
    ]
    monkeypatch.setattr(gpu, "_LEAST", 1)
    monkeypatch.setattr(gpu, "parts", lambda *_, **__: table)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device=cpu", "--quick", f"--out={tmp_path / 'gpu.json'}"])
    assert gpu.main() == 1
    rows = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert rows["tests"]["status"] == "failed: 1 failed"
    assert rows["slow"]["status"] == "stopped" and rows["slow"]["found"] == {"a": 1}
    assert rows["lacking"]["status"] == "left out: lacks no-such-package"
    assert rows["last"]["status"] == "ok" and rows["last"]["found"] == {"b": 2}


def test_a_loop_that_takes_many_times_as_long_is_timed_once() -> None:
    """As `higher` does on a GPU, by which the rounds used to be counted."""
    runs = {"higher": partial(time.sleep, 0.1), "vectorized": partial(time.sleep, 0.001)}
    times = rounds_of(runs, torch.device("cpu"), hopeless=5)
    assert {name: len(values) for name, values in times.items()} == {"higher": 1, "vectorized": 3}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_ends_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py"], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "no GPU: PyTorch sees none; --device cpu --quick runs every part in small\n"


def needed(*names: str) -> set[str]:
    """Those packages and all that they require, by what is installed here."""
    found, left = set[str](), list(names)
    while left:
        if (name := canonicalize_name(left.pop())) not in found:
            found.add(name)
            required = [Requirement(one) for one in requires(name) or ()]
            left += [one.name for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def test_the_packages_it_names_are_all_that_a_bare_pytorch_lacks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--packages"])
    assert gpu.main() == 0
    printed = [Requirement(line) for line in capsys.readouterr().out.splitlines()]
    here = [one.name for one in printed if one.marker is None or one.marker.evaluate()]
    assert len(here) == len(set(here))
    assert set(here) == needed(*gpu.TESTS) - needed("torch") - {"torchvision"}
