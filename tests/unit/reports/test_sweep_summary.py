"""A sweep's table and picture, from folders written by hand."""

import csv
import json
from pathlib import Path
from statistics import stdev

import pytest
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image

from lightning_maml.reports import SweepSummary
from lightning_maml.reports.sweeps.jobs import FAILED, FINISHED, STOPPED, Outcome, groups_of, jobs_of, what_varies
from lightning_maml.shell.sweeps import job_folder

FIXED = ["experiment=quickstart"]


def write_job(sweep: Path, overrides: list[str], accuracy: float | None, status: str = FINISHED) -> None:
    folder = sweep / str(len(list(sweep.iterdir())))
    folder.mkdir()
    error = "it broke" if status == FAILED else None
    Outcome([*FIXED, *overrides], status, accuracy, error, 12.5).write(folder)
    if accuracy is not None:
        metrics = {
            "metatest/outer_accuracy": accuracy,
            "metatest/outer_accuracy_ci95": 0.01,
            "metatest/outer_loss": 1.0,
        }
        (folder / "metrics.json").write_text(json.dumps(metrics))


def summarize(sweep: Path) -> str:
    """As when the sweep ends; what it says of the jobs that did not finish."""
    plain = {"sweep": {"dir": str(sweep)}, "sweeper": {}, "launcher": {"_target_": "BasicLauncher"}}
    callback, config = SweepSummary(), OmegaConf.create({"hydra": plain})
    callback.on_multirun_start(config)
    try:
        callback.on_multirun_end(config)
    except SystemExit as ended:
        return str(ended)
    return ""


def figure_of(sweep: Path, drawn: list[Figure]) -> Figure:
    """The figure that the summary draws."""
    summarize(sweep)
    assert min(Image.open(sweep / "summary.png").size) > 100
    return drawn[-1]


def test_seeds_fold_into_mean_and_standard_deviation(tmp_path: Path) -> None:
    for steps, accuracies in ((10, (0.7, 0.8, 0.9)), (2, (0.5, 0.6))):
        for seed, accuracy in enumerate(accuracies):
            write_job(tmp_path, [f"train.seed={seed}", f"+algorithm.num_inner_steps={steps}"], accuracy)
    jobs = jobs_of(tmp_path)
    assert what_varies(jobs) == ["algorithm.num_inner_steps", "train.seed"]
    two, ten = groups_of(jobs)  # numbers in their order, not the alphabet's
    assert (two.settings, ten.settings) == (("2",), ("10",))
    assert ten.mean == pytest.approx(0.8) and ten.spread == pytest.approx(stdev((0.7, 0.8, 0.9)))
    assert summarize(tmp_path) == ""
    text = (tmp_path / "summary.md").read_text()
    assert "80.00 ± 10.00 %" in text and "55.00 ± 7.07 %" in text and "70.00 ± 1.00 %" in text


def test_failed_and_stopped_jobs_are_rows_and_named(tmp_path: Path) -> None:
    write_job(tmp_path, ["data.datamodule.nway=5"], 0.9)
    write_job(tmp_path, ["data.datamodule.nway=500"], None, FAILED)
    write_job(tmp_path, ["data.datamodule.nway=7"], None, STOPPED)
    assert summarize(tmp_path) == (
        "error: 2 of the sweep's jobs did not finish: data.datamodule.nway=7: stopped; "
        "data.datamodule.nway=500: failed: it broke"
    )
    with (tmp_path / "summary.csv").open(newline="") as file:
        rows = {row["data.datamodule.nway"]: row for row in csv.DictReader(file)}
    assert [rows[ways]["status"] for ways in ("5", "7", "500")] == [FINISHED, STOPPED, FAILED]
    assert (rows["5"]["test_accuracy"], rows["500"]["test_accuracy"], rows["500"]["error"]) == ("0.9", "", "it broke")
    assert "failed: it broke" in (tmp_path / "summary.md").read_text()


def test_settings_and_errors_are_shown_as_they_are(tmp_path: Path) -> None:
    """Square brackets are no styles, and a bar does not end a cell."""
    write_job(tmp_path, ["+model.activation=[relu]"], 0.9)
    write_job(tmp_path, ["+model.activation=[tanh]"], None, FAILED)
    path = tmp_path / "1" / "outcome.json"
    path.write_text(path.read_text().replace("it broke", "no [/data/a.h5] | no b"))
    assert summarize(tmp_path).endswith(": model.activation=[tanh]: failed: no [/data/a.h5] ¦ no b")
    text = (tmp_path / "summary.md").read_text()
    assert "[relu]" in text and "failed: no [/data/a.h5] ¦ no b" in text


def test_jobs_without_a_test_are_compared_by_what_they_returned(tmp_path: Path) -> None:
    for seed, value in ((1, 2.5), (2, 3.5)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        Outcome([f"train.seed={seed}"], FINISHED, value).write(folder)
    (group,) = groups_of(jobs_of(tmp_path))
    assert group.mean == 3.0


def test_one_number_is_a_line_with_a_band(tmp_path: Path, drawn: list[Figure]) -> None:
    for rate in (0.001, 0.01, 0.1):
        for seed in (1, 2):
            write_job(tmp_path, [f"optim.outer_optimizer.lr={rate}", f"train.seed={seed}"], 0.5 + rate + 0.1 * seed)
    (axes,) = figure_of(tmp_path, drawn).axes
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "optim.outer_optimizer.lr"
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([0.651, 0.66, 0.75])
    assert len(axes.collections) == 1


def test_two_numbers_are_a_map(tmp_path: Path, drawn: list[Figure]) -> None:
    for steps in (1, 5):
        for shots in (1, 3, 10):
            overrides = [f"algorithm.num_inner_steps={steps}", f"data.datamodule.kshot.support={shots}"]
            write_job(tmp_path, overrides, 0.5 + steps / 100 + shots / 50)
    axes = figure_of(tmp_path, drawn).axes[0]
    cells = axes.images[0].get_array()
    assert cells is not None and cells.shape == (3, 2)
    assert cells[2, 1] == pytest.approx(0.5 + 5 / 100 + 10 / 50)


def test_two_numbers_that_are_no_grid_are_points(tmp_path: Path, drawn: list[Figure]) -> None:
    for rate, steps in ((0.1, 1), (0.2, 3), (0.3, 2)):
        write_job(tmp_path, [f"optim.inner_optimizer.lr={rate}", f"algorithm.num_inner_steps={steps}"], rate)
    axes = figure_of(tmp_path, drawn).axes[0]
    assert not axes.images and len(axes.collections[0].get_offsets()) == 3


def test_names_are_bars(tmp_path: Path, drawn: list[Figure]) -> None:
    for method in ("maml", "anil"):
        write_job(tmp_path, [f"algorithm={method}"], 0.9)
    (axes,) = figure_of(tmp_path, drawn).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["anil", "maml"]


def name_of(*overrides: str) -> str:
    return job_folder(_root_=OmegaConf.create({"hydra": {"overrides": {"task": list(overrides)}}}))


def test_a_job_is_the_same_folder_in_any_order_and_launched_by_anyone() -> None:
    assert name_of("train.seed=2", "algorithm=anil") == "algorithm-anil__train.seed-2"
    assert name_of("algorithm=anil", "hydra=joblib", "train.seed=2", "hydra/launcher=ray") == name_of(
        "train.seed=2", "algorithm=anil"
    )
    assert name_of() == "defaults"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a=1__b=2",), ("a=1", "b=2")),
        (("data.root=x y",), ("data.root=x_y",)),
        (("name=" + "x" * 200,), ("name=" + "x" * 201,)),
        (("kshot={support: 1}",), ("kshot={support:1}",)),
    ],
)
def test_different_jobs_have_different_folders(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    names = name_of(*one), name_of(*other)
    assert names[0] != names[1]
    assert all(len(name) < 150 and not set(name) & set("/ ,={}:'\"") for name in names)
