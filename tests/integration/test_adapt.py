"""src/adapt.py: a folder of somebody's images and a checkpoint in, predictions out."""

import csv
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_maml.data.sources.glyph_images import LETTERS, write_images
from lightning_maml.few_shot import Classifier
from tests.integration.command import environment, program, succeed, tiny
from tests.paths import ROOT

Adapt = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of five ways and the letters' images."""
    root = tmp_path_factory.mktemp("adapt")
    arguments = tiny("data.datamodule.nway=5", "data.datamodule.kshot.query=2", "logging=csv", "train.test=false")
    succeed(*arguments, folder=root / "run")
    write_images(root / "letters", shots=2, queries=3)
    return root


@pytest.fixture
def adapt(trained: Path, tmp_path: Path) -> Adapt:
    def run(**changes: object) -> "subprocess.CompletedProcess[str]":
        settings: dict[str, object] = {
            "ckpt": trained / "run/checkpoints/best.ckpt",
            "support": trained / "letters/support",
            "query": trained / "letters/query",
            "output": tmp_path / "out",
        }
        arguments = [f"{name}={value}" for name, value in (settings | changes).items() if value is not None]
        return program("src/adapt.py", *arguments)

    return run


def test_predictions_are_written_drawn_and_counted(trained: Path, tmp_path: Path, adapt: Adapt) -> None:
    done = adapt()
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert names == {".hydra", "adapt.log", "predictions.csv", "predictions.png", "classifier.pt"}
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(LETTERS) * 3
    classifier = Classifier.load(out / "classifier.pt")
    for row in rows:
        probabilities = {label: float(row[f"p({label})"]) for label in classifier.classes}
        assert row["class"] == max(probabilities, key=lambda label: probabilities[label])
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert row["truth"] == Path(row["file"]).parent.name
        (again,) = classifier.classify([row["file"]])
        assert again.probability == pytest.approx(probabilities[row["class"]], abs=1e-5)
    right = sum(row["class"] == row["truth"] for row in rows)
    assert f"accuracy {right / len(rows):.1%}: {right} of {len(rows)} images" in done.stdout
    assert min(Image.open(out / "predictions.png").size) > 400


def test_a_prediction_does_not_depend_on_the_other_images_unless_asked(
    trained: Path, tmp_path: Path, adapt: Adapt
) -> None:
    def first(out: Path) -> float:
        with (out / "predictions.csv").open(newline="") as file:
            return next(float(row["p(an)"]) for row in csv.DictReader(file) if row["file"] == str(image))

    image = trained / "letters/query/an/2.png"
    for transductive in ("false", "true"):
        for name, query in (("alone", image), ("together", f"[{image},{trained}/letters/query/don]")):
            done = adapt(query=query, transductive=transductive, output=tmp_path / transductive / name)
            assert done.returncode == 0, done.stderr
    alone, together = (first(tmp_path / "false" / name) for name in ("alone", "together"))
    assert alone == pytest.approx(together, abs=2e-6)
    alone, together = (first(tmp_path / "true" / name) for name in ("alone", "together"))
    assert abs(alone - together) > 1e-4
    assert not (tmp_path / "true/alone/classifier.pt").exists()


def test_folders_may_be_called_anything(trained: Path, tmp_path: Path, adapt: Adapt) -> None:
    """What Hydra's grammar would not take unquoted, what is a number, and what is markup."""
    odd = tmp_path / "Jürgen's photos (1), a=b"
    for kind in ("support", "query"):
        for number, name in enumerate(("$a_$", "[b]", "2024")):
            (odd / kind / name).mkdir(parents=True)
            source = trained / "letters" / kind / ("an", "don", "gan")[number]
            for image in source.iterdir():
                (odd / kind / name / image.name).write_bytes(image.read_bytes())
    done = adapt(support=odd / "support", query=odd / "query", output=odd / "out")
    assert done.returncode == 0, done.stderr
    assert "[b]" in done.stdout and "of 9 images whose class is known" in done.stdout
    assert (odd / "out/predictions.png").exists()


def test_onnx(tmp_path: Path, adapt: Adapt) -> None:
    done = adapt(onnx="true", steps=3)
    assert done.returncode == 0, done.stderr
    assert "classifier.onnx (its probabilities are PyTorch's within" in done.stdout
    assert (tmp_path / "out/classifier.onnx").stat().st_size > 10_000
    refused = adapt(onnx="true", transductive="true", output=tmp_path / "other")
    assert refused.returncode == 1 and refused.stderr.startswith("error: onnx=True")


def test_the_readmes_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the checkpoint that the repository ships, which is small and holds weights alone."""
    checkpoint = ROOT / "checkpoints/omniglot_5way_1shot.ckpt"
    assert checkpoint.stat().st_size < 2**20
    assert set(torch.load(checkpoint, weights_only=True)) == {"state_dict", "recipe"}
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs/own-images.md").read_text(), re.DOTALL)[0]
    (tmp_path / "checkpoints").symlink_to(checkpoint.parent)
    write_images(tmp_path, shots=1, queries=1)
    for name, source in (("a1", "support/an/0"), ("b1", "support/shin/0"), ("unknown", "query/shin/1")):
        (tmp_path / f"{source}.png").rename(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/own-images.md", "exec"), {})
    assert capsys.readouterr().out == "b\n"


def test_the_demo_is_what_the_makefile_runs(tmp_path: Path) -> None:
    dry = subprocess.run(
        ["make", "-n", "demo", "ARGS="], cwd=ROOT, capture_output=True, text=True, check=True, env=environment()
    ).stdout
    (command,) = re.findall(r"src/adapt.py (.*?)$", dry.replace("\\\n", " "), re.MULTILINE)
    write_images(tmp_path)
    arguments = [one.replace("experiments/demo", str(tmp_path)) for one in command.split()]
    done = program("src/adapt.py", *arguments)
    assert done.returncode == 0, done.stderr
    right, images = re.findall(r"(\d+) of (\d+) images whose class is known", done.stdout)[0]
    assert int(images) == 20 and int(right) >= 16
    assert "predictions.png" in dry.rpartition("echo")[2]


def test_help_is_of_this_program() -> None:
    done = program("src/adapt.py", "--help")
    assert done.returncode == 0 and "support: ???" in done.stdout and "algorithm" not in done.stdout
    for line in (ROOT / "conf/adapt.yaml").read_text().partition("ckpt: ")[2].partition("hydra:")[0].splitlines():
        assert line in done.stdout


def write(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_what_cannot_work_is_one_line(trained: Path, tmp_path: Path, adapt: Adapt) -> None:
    one = write(tmp_path / "one/a/1.png").parent.parent
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(one / "a/1.png")
    broken = tmp_path / "broken"
    for name in ("a", "b"):
        write(broken / name / "1.png", b"no image")
    large = tmp_path / "large"
    for name in ("a", "b"):
        write(large / name / "1.png")
        Image.new("1", (10_000, 9_000)).save(large / name / "1.png")
    many = tmp_path / "many"
    for index in range(6):
        write(many / str(index) / "1.png")
        Image.fromarray(np.zeros((28, 28), dtype=np.uint8)).save(many / str(index) / "1.png")
    checkpoint = torch.load(trained / "run/checkpoints/best.ckpt", weights_only=True)
    torch.save({"state_dict": checkpoint["state_dict"]}, tmp_path / "old.ckpt")
    (tmp_path / "empty").mkdir()
    cases: list[tuple[dict[str, object], str]] = [
        ({"support": one}, "support=1 class: there is nothing to tell apart"),
        ({"support": broken}, f"support={broken}/a/1.png: this file is no image"),
        ({"support": large}, f"support={large}/a/1.png: this file is too large: 10000×9000 pixels"),
        ({"support": many}, "support=6 classes: this checkpoint's head tells 5 apart"),
        ({"query": tmp_path / "empty"}, "there are no images in it"),
        ({"query": broken}, f"query={broken}/a/1.png: this file is no image"),
        ({"query": None}, "query=: this must be given"),
        ({"ckpt": tmp_path / "nowhere.ckpt"}, "there is no such file"),
        ({"ckpt": tmp_path / "old.ckpt"}, "does not say how its network is built and its images are prepared"),
        ({"steps": -1}, "steps=-1"),
        ({"trusted": "null"}, "trusted=None: must be a list"),
        ({"output": ""}, "output=: "),
        ({"output": "/proc/nowhere"}, "output"),
    ]
    for number, (changes, part) in enumerate(cases):
        out = tmp_path / f"out{number}"
        done = adapt(**({"output": out} | changes))
        assert done.returncode == 1 and done.stderr.startswith("error: ") and part in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        left = {path.name for path in out.iterdir()} if out.exists() else set()
        assert left <= {".hydra", "adapt.log"}, left
