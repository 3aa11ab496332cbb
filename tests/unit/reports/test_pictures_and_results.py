"""Pictures drawn from numbers that are known, and the files of results."""

import csv
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from lightning_maml.inner_loops import Trajectory
from lightning_maml.reports.pictures import draw_adaptation, draw_curves
from lightning_maml.reports.progress import _duration
from lightning_maml.reports.results import as_table, write_tasks
from tests.unit.reports.conftest import unreadable


def test_curves_show_each_split_over_its_own_meta_updates(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [
        {"step": "1.0", "metatrain/outer_loss": "2.0", "metatrain/outer_accuracy": "0.2", "metaval/outer_loss": ""},
        {"step": "5.0", "metatrain/outer_loss": "1.0", "metatrain/outer_accuracy": "0.6", "metaval/outer_loss": ""},
        {"step": "5.0", "metatrain/outer_loss": "", "metaval/outer_loss": "1.5", "metaval/outer_accuracy": "0.5"},
    ]
    draw_curves(rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0
    loss, accuracy = drawn[0].axes
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in loss.lines}
    assert lines == {"meta-train": ([1, 5], [2.0, 1.0]), "meta-validation": ([5], [1.5])}
    assert [list(line.get_ydata()) for line in accuracy.lines] == [[0.2, 0.6], [0.5]]
    assert loss.get_xlabel() == "meta-updates" and "accuracy" in accuracy.get_ylabel()


def test_curves_of_a_regression_have_no_accuracy(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_curves([{"step": "1.0", "metatrain/outer_loss": "2.0"}], tmp_path / "curves.png")
    assert len(drawn[0].axes) == 1


def test_adaptation_shows_every_step_with_its_interval(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_adaptation([0.2, 0.9], [0.01, 0.02], 600, tmp_path / "adaptation.png", is_accuracy=True)
    (axes,) = drawn[0].axes
    (container,) = axes.containers
    line, _, (bars,) = container.lines
    assert list(line.get_xdata()) == [0, 1] and list(line.get_ydata()) == [0.2, 0.9]
    (low, high) = bars.get_segments()[1]
    assert (low[1], high[1]) == pytest.approx((0.88, 0.92))
    assert "600" in drawn[0].get_suptitle()


def test_tasks_are_written_one_per_line(tmp_path: Path) -> None:
    values = torch.tensor([[0.5, 0.25], [1.0, 0.75]])
    write_tasks(Trajectory(values, values + 1, values, values / 2), tmp_path / "tasks.csv")
    with (tmp_path / "tasks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["task"] for row in rows] == ["0", "1"]
    assert [float(row["outer_loss"]) for row in rows] == [1.25, 1.75]
    assert [float(row["pre_accuracy"]) for row in rows] == [0.25, 0.5]
    assert [float(row["outer_accuracy"]) for row in rows] == [0.125, 0.375]
    assert [float(row["inner_accuracy"]) for row in rows] == [0.25, 0.75]


def test_the_table_shows_before_after_and_the_interval() -> None:
    metrics = {
        "metatest/pre_accuracy": 0.2,
        "metatest/outer_accuracy": 0.95127,
        "metatest/outer_accuracy_ci95": 0.0057,
        "metatest/pre_loss": 1.6,
        "metatest/outer_loss": 0.17,
        "metatest/outer_loss_ci95": 0.01,
    }
    table = as_table(metrics, 600)
    assert "600 tasks" in table and "20.00%" in table and "95.13% ± 0.57%" in table and "0.1700 ± 0.0100" in table


@pytest.mark.parametrize(("seconds", "text"), [(9, "9 s"), (59.6, "1 min 00 s"), (3725, "1 h 02 min")])
def test_durations(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


@pytest.mark.parametrize("is_accuracy", [True, False])
def test_without_inner_steps_there_is_one_value_and_one_column(
    tmp_path: Path, drawn: list[Figure], is_accuracy: bool
) -> None:
    draw_adaptation([0.934], [0.011], 50_000, tmp_path / "adaptation.png", is_accuracy=is_accuracy)
    (axes,) = drawn[0].axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0"] and unreadable(drawn[0]) == []
    (written,) = axes.texts
    assert written.get_text() == ("93.40% ± 1.10%" if is_accuracy else "0.9340 ± 0.0110")
    metrics = {f"metatest/{name}": 0.934 for name in ("pre_accuracy", "outer_accuracy", "outer_accuracy_ci95")}
    table = as_table(metrics, 600, adapts=False)
    assert table.count("93.40%") == 2 and "before" not in table and "without inner steps" in table


def test_a_picture_for_a_paper_has_letters_that_can_be_searched(tmp_path: Path) -> None:
    draw_adaptation([0.2, 0.9], [0.01, 0.02], 600, tmp_path / "adaptation.pdf", is_accuracy=True)
    content = (tmp_path / "adaptation.pdf").read_bytes()
    assert content.startswith(b"%PDF") and b"/CIDFontType2" in content and b"/Type3" not in content
