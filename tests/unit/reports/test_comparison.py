"""Two runs on the same tasks."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from lightning_maml.errors import SettingError
from lightning_maml.reports.comparison import Difference, compare, comparison_table, draw_comparison
from tests.unit.reports.conftest import unreadable

CONFIG = """
data:
  datamodule:
    eval_seed: {seed}
    nway: 5
    kshot: {{support: {{train: 9, test: 1}}, query: 5}}
    datasets: {{train: {{a: 1}}, test: {{_target_: X}}}}
"""


def run(folder: Path, accuracies: np.ndarray, seed: int = 0) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/overrides.yaml").write_text(f"- experiment=quickstart\n- algorithm={folder.name}\n")
    (folder / ".hydra/config.yaml").write_text(CONFIG.format(seed=seed))
    lines = [f"{task},{value}" for task, value in enumerate(accuracies)]
    (folder / "tasks.csv").write_text("\n".join(["task,outer_accuracy", *lines]) + "\n")
    return folder


def test_differences_are_taken_task_by_task(tmp_path: Path) -> None:
    """Between tasks accuracies vary by 20 %, between runs by 1 % ± 0.5 %: a paired interval sees it."""
    generator = np.random.default_rng(0)
    hard = 0.6 + 0.2 * generator.standard_normal(400)
    better = hard + 0.01 + 0.005 * generator.standard_normal(400)
    metric, (first, second, same) = compare(
        [run(tmp_path / "a", hard), run(tmp_path / "b", better), run(tmp_path / "c", hard)]
    )
    assert metric == "outer_accuracy" and first.difference is None
    assert [one.name for one in (first, second, same)] == ["algorithm=a", "algorithm=b", "algorithm=c"]
    assert first.mean == pytest.approx(hard.mean()) and first.ci95 == pytest.approx(1.966 * hard.std(ddof=1) / 20, 1e-3)
    assert second.difference == pytest.approx((better - hard).mean())
    assert second.difference_ci95 == pytest.approx(1.966 * (better - hard).std(ddof=1) / 20, 1e-3)
    assert second.ci95 > 10 * second.difference_ci95  # type: ignore[operator]
    assert second.p_value is not None and second.p_value < 1e-50
    assert (same.difference, same.p_value) == (0.0, 1.0)

    console = Console(width=200)
    with console.capture() as captured:
        console.print(comparison_table(metric, [first, second, same]))
    assert f"+{100 * (better - hard).mean():.2f}% ± 0.05%" in captured.get()
    draw_comparison(metric, [first, second, same], tmp_path / "comparison.png")
    assert Image.open(tmp_path / "comparison.png").size[0] > 900


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    a = run(tmp_path / "a", np.ones(3))
    with pytest.raises(SettingError, match=r"other tasks than .*: data.datamodule.eval_seed differs"):
        compare([a, run(tmp_path / "b", np.ones(3), seed=1)])
    with pytest.raises(SettingError, match="the number of tasks differs"):
        compare([a, run(tmp_path / "c", np.ones(4))])
    with pytest.raises(SettingError, match=r"there is no tasks.csv"):
        compare([a, tmp_path])


def test_a_name_is_text_in_the_table_and_the_picture(tmp_path: Path) -> None:
    runs = [run(tmp_path / name, np.array(values)) for name, values in (("a", [0, 1]), ("b", [1, 0.5]))]
    for folder, name in zip(runs, (":cat:", "\x1b[2J[red]$x^"), strict=True):
        (folder / ".hydra/overrides.yaml").write_text(json.dumps([name]))
    metric, found = compare(runs)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(comparison_table(metric, found))
    assert " :cat: " in captured.get() and r"\x1b[2J[red]$x^" in captured.get()
    draw_comparison(metric, found, tmp_path / "comparison.png")


def test_what_no_run_has_written_is_refused(tmp_path: Path) -> None:
    a, c = (run(tmp_path / name, np.ones(2)) for name in "ac")
    b = run(tmp_path / "b", np.array([1, np.nan]))
    with pytest.raises(SettingError, match=r"b: its tasks.csv cannot be read \(outer_accuracy is not a finite number"):
        compare([a, b])
    tens = [f"a{one}: &a{one} [{', '.join([f'*a{one - 1}'] * 10)}]" for one in range(1, 20)]
    (c / ".hydra/config.yaml").write_text("\n".join(["a0: &a0 [0]", *tens]))  # 10¹⁹ values
    with pytest.raises(SettingError, match=r"c: its .hydra/config.yaml cannot be read \(it has aliases"):
        compare([a, c])


def test_settings_of_training_may_differ(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", np.zeros(3)), run(tmp_path / "b", np.ones(3))
    config = b / ".hydra/config.yaml"
    config.write_text(config.read_text().replace("train: 9", "train: 2").replace("a: 1", "a: 2"))
    assert compare([a, b])[1][1].difference == 1


def test_a_comparison_of_runs_with_long_names_can_be_read(tmp_path: Path, drawn: list[Figure]) -> None:
    overrides = "algorithm=anil, data.datamodule.nway={train: 20, val: 5, test: 5}, optim.outer_optimizer.lr=0.0003"
    folder = f"/home/somebody/experiments/multirun/{'algorithm-maml__train.seed-3' * 5}"
    for names in ([folder, overrides], ["a", overrides, folder, overrides * 2], ["a", "b"]):
        first, *others = names
        differences = [Difference(first, 0.9, 0.01), *(Difference(name, 0.9, 0.01, 0.1, 0.2, 0.3) for name in others)]
        draw_comparison("outer_accuracy", differences, tmp_path / "comparison.png")
        assert unreadable(drawn[-1]) == []
        assert drawn[-1].axes[0].get_xlabel() == "difference of query accuracy"
