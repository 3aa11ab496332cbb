"""docs/RESULTS.md: its numbers are those of the runs, and an interrupted run is resumed."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.results import sweep
from tests.integration.command import wait_for
from tests.paths import ROOT

SMALL = [
    *("data=glyphs", "model=conv4_small", "model.torch_module.num_filters=4", "data.datamodule.kshot.query=2"),
    *("data.datamodule.batch_size={train: 2, val: 2, test: 3}", "data.datamodule.batches={train: 3, val: 1, test: 2}"),
]


def table(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "rows.yaml"
    path.write_text(yaml.safe_dump([{"source": "a paper", "published": None} | row for row in rows]))
    return path


def program(folder: Path, rows: Path | None, *arguments: str) -> list[str]:
    """Return the arguments of the program, with a table and records of its own or those of the repository."""
    own = [] if rows is None else ["--table", str(rows), "--records", str(folder / "records")]
    where = ["--runs", str(folder / "runs"), "--out", str(folder / "RESULTS.md")]
    return [*own, *where, *arguments]


def run(folder: Path, rows: Path | None, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page that the program writes."""
    monkeypatch.setattr(sys, "argv", ["sweep", *program(folder, rows, *arguments)])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process is the tests'
    sweep.main()
    return (folder / "RESULTS.md").read_text()


def pretend(folder: Path, accuracies: list[float], loss: float = 0.5, **record: Any) -> None:
    """A run's folder, as if it had been tested on as many tasks."""
    folder.mkdir(parents=True)
    seed = int(folder.name.removeprefix("seed-")) if folder.name.startswith("seed-") else 0
    known = {"experiment": "", "seed": seed, "published": False, "overrides": ["a=1"], "commit": "abc", "seconds": 90}
    (folder / "row.json").write_text(json.dumps(known | record))
    steps = {f"metatest/outer_accuracy/step_{k}": value for k, value in enumerate((0.2, float(np.mean(accuracies))))}
    steps |= {"metatest/outer_loss/step_1": loss, "metatest/outer_loss_ci95/step_1": 0.04}
    (folder / "metrics.json").write_text(json.dumps(steps))
    with (folder / "tasks.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["task", "outer_accuracy"], *enumerate(accuracies)])
    with (folder / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["step", "metaval/outer_accuracy"], [500, 0.5], [1000, 0.75]])


def test_the_table_holds_the_numbers_of_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, draw = tmp_path / "runs", np.random.default_rng(0)
    one, two, beside = (draw.uniform(0.8, 1, 50).tolist() for _ in range(3))
    pretend(runs / "a/one/laptop/seed-0", one, experiment="a/one", finished=True)
    pretend(runs / "a/one/laptop/seed-0/queries-15", beside)
    pretend(runs / "a/two/published/seed-0", one, experiment="a/two", finished=True, published=True)
    pretend(runs / "a/two/published/seed-3", two, experiment="a/two", finished=True, published=True)
    pretend(runs / "a/two/laptop/seed-0", [0.1] * 50, experiment="a/two", finished=True)  # published runs go before
    pretend(runs / "a/three/laptop/seed-0", one, experiment="a/three", meta_updates=2000)
    pretend(runs / "b/curve/laptop/seed-0", one, experiment="b/curve")  # begun; its seed 1 is what is known
    pretend(runs / "b/curve/laptop/seed-1", one, experiment="b/curve", finished=True, overrides=["b=2"])
    pretend(runs / "b/curve/laptop/seed-2", one, loss=0.7, experiment="b/curve", finished=True)
    rows = table(
        tmp_path,
        {"experiment": "a/one", "published": "98.7", "queries": 15, "notes": "More was tried."},
        *({"experiment": f"a/{name}"} for name in ("two", "three", "four")),
        {"experiment": "b/curve", "published": "1.13 ± 0.18", "metric": "outer_loss/step_1"},
    )
    page = run(tmp_path, rows, "--budget", "0", monkeypatch=monkeypatch)

    def cell(values: Any) -> str:
        values = 100 * np.asarray(values)
        return f"{values.mean():.2f} ± {2.0096 * values.std(ddof=1) / 50**0.5:.2f}"

    lines = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert lines["one"] == f"| one | 98.7 | **{cell(one)}** | {cell(beside)} (15) | 0 | 1,000 | 2 min | laptop |"
    assert f"| **{cell((np.array(one) + np.array(two)) / 2)}** |" in lines["two"]
    assert lines["two"].endswith(" | 0, 3 | 1,000 | 3 min | published |")
    assert (
        "not finished" in lines["three"]
        and "| 1,000 of 2,000 | 2 min |" in lines["three"]
        and "not run" in lines["four"]
    )
    assert "| 1.13 ± 0.18 | **0.600 ± 0.040** |" in lines["curve"] and "| 1, 2 |" in lines["curve"]
    assert "experiment=b/curve b=2 train.seed=1" in page
    assert "More was tried." in page and "python src/run.py experiment=a/one a=1 train.seed=0" in page
    for name in ("updates", "time", "steps"):
        assert (tmp_path / f"results_{name}.png").exists() and f"(results_{name}.png)" in page


def test_an_interrupted_run_is_gone_on_with_and_a_finished_one_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small: dict[str, Any] = {"minutes": 0.3, "laptop": [*SMALL, "train.pl_trainer.max_epochs=1000"], "queries": 3}
    other = {"experiment": "omniglot_cpu", "trained_by": "quickstart", "laptop": SMALL}
    rows = table(tmp_path, {"experiment": "quickstart"} | small, other)
    quick = ["--measure", "0.5", "--seeds", "0"]
    folder = tmp_path / "runs/quickstart/laptop/seed-0"
    command = [sys.executable, "-m", "benchmarks.results.sweep", *program(tmp_path, rows, "--budget", "5", *quick)]
    process = subprocess.Popen(command, cwd=ROOT)
    wait_for((folder / "checkpoints/last.ckpt").exists)
    process.terminate()
    assert process.wait(timeout=120) == 75
    page = (tmp_path / "RESULTS.md").read_text()
    planned = json.loads((folder / "row.json").read_text())
    assert "| quickstart | none | not finished" in page and not planned["finished"]
    assert planned["meta_updates"] % 3 == 0 and planned["seconds"] > 0

    page = run(tmp_path, rows, "--budget", "5", *quick, monkeypatch=monkeypatch)
    done = json.loads((folder / "row.json").read_text())
    assert "resuming from" in (folder / "run.log").read_text()
    assert done["finished"] and done["meta_updates"] == planned["meta_updates"]
    assert done["seconds"] > planned["seconds"] and done["overrides"] == planned["overrides"]
    steps = [int(float(row["step"])) for row in csv.DictReader((folder / "metrics.csv").open())]
    assert max(steps) == done["meta_updates"]  # the last row is the test's, at the step of the best checkpoint
    tested = [json.loads((path / "metrics.json").read_text()) for path in (folder, folder / "queries-3")]
    for metrics in tested:
        assert f"{100 * metrics['metatest/outer_accuracy']:.2f} ± " in page
    # the same weights on the same tasks; that experiment takes three inner steps in the test, this one takes one
    borrowed = json.loads((tmp_path / "runs/omniglot_cpu/laptop/seed-0/metrics.json").read_text())
    assert borrowed["metatest/outer_accuracy/step_1"] == pytest.approx(tested[0]["metatest/outer_accuracy"], abs=1e-6)
    assert "metatest/outer_accuracy/step_3" in borrowed

    def nothing_starts(*arguments: Any, **settings: Any) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(subprocess, "Popen", nothing_starts)
    assert run(tmp_path, rows, "--budget", "5", *quick, monkeypatch=monkeypatch) == page
    shutil.rmtree(tmp_path / "runs")  # another machine has the records alone
    assert run(tmp_path, rows, "--budget", "5", *quick, monkeypatch=monkeypatch) == page
    assert not list((tmp_path / "records").rglob("*.ckpt"))


def test_a_pattern_without_a_row_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="error: --rows omniglot/mml: no row"):
        run(tmp_path, None, "--budget", "1", "--rows", "omniglot/mml", monkeypatch=monkeypatch)


def test_the_page_of_the_repository_is_that_of_its_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = run(tmp_path, None, "--budget", "0", monkeypatch=monkeypatch)
    assert page == (ROOT / "docs/RESULTS.md").read_text()
