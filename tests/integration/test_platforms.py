"""Where there is no Linux: a run with what Windows lacks taken out of Python, and output that is not UTF-8."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.command import environment, fresh, tiny
from tests.integration.ends import rows
from tests.paths import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc to know which files are open")
def test_a_run_on_windows_caches_trains_tests_and_draws(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for shade in range(5):
            for sample in range(3):
                path = tmp_path / "images" / split / f"{shade}" / f"{sample}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (28, 28), 50 * shade + sample).save(path)
    settings = tiny("data=image_folder", "data.mode_of_images=L", f"data.root={tmp_path / 'images'}", "logging=csv")
    folders = (f"data.datamodule.cache_dir={tmp_path / 'cache'}", f"hydra.run.dir={tmp_path / 'run'}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.windows", "src/run.py", *settings, *folders],
        cwd=ROOT,
        env=environment(PYTHONPATH="src"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Meta-test, 6 tasks" in done.stdout
    for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "tasks.csv", "curves.png", "episode.png"):
        assert (tmp_path / "run" / name).is_file()
    assert [row["step"] for row in rows(tmp_path / "run") if row["metaval/outer_loss"]] == ["3", "6"]
    assert len(list((tmp_path / "cache").glob("*/samples.npy"))) == 3


def test_a_pipe_that_takes_no_greek_letters_gets_them_escaped() -> None:
    done = fresh("--help", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert r"\u03b8" in done.stdout
