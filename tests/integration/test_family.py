"""Every method by one word, a method of one's own as docs/own-method.md has it, and runs compared."""

import csv
import json
import math
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image

from tests.integration.command import program, run, succeed, tiny
from tests.paths import ROOT

METHODS = sorted(path.stem for path in (ROOT / "conf/algorithm").glob("*.yaml"))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_and_is_tested(name: str, tmp_path: Path) -> None:
    data = ("data=glyph_fonts",) if name == "mldg" else ("data=glyphs",)
    arguments = tiny(*data, f"algorithm={name}", "logging=csv", "train.seed=3")
    if name == "mldg":
        arguments = tuple(one for one in arguments if "kshot" not in one)
    succeed(*arguments, folder=tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["seed"], metrics["eval_seed"], metrics["metatest/num_tasks"]) == (3, 0, 6)
    assert 0 <= metrics["metatest/outer_accuracy"] <= 1 and math.isfinite(metrics["metatest/outer_loss"])
    cfg = OmegaConf.load(tmp_path / ".hydra/config.yaml")
    steps = cfg.algorithm.num_inner_steps if cfg.algorithm.eval_inner_steps is None else cfg.algorithm.eval_inner_steps
    for step in range(steps + 1):
        assert metrics[f"metatest/outer_accuracy_ci95/step_{step}"] >= 0
    assert (f"metatest/outer_accuracy/step_{steps + 1}" in metrics) is False
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("metatrain/gradient_norm")]
    assert len(rows) == 6 and all(float(row["metatrain/gradient_norm"]) > 0 for row in rows)
    assert all(row["metatrain/outer_loss"] != "nan" for row in rows if "metatrain/outer_loss" in row)


def test_ways_may_differ_where_the_method_allows_it(tmp_path: Path) -> None:
    ways = "data.datamodule.nway={train: 4, val: 2, test: 3}"
    succeed(*tiny("algorithm=protonet", ways), folder=tmp_path)
    done = run(*tiny("algorithm=maml", ways))
    assert done.returncode == 1 and "this method's head has one width" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_readmes_own_method(tmp_path: Path) -> None:
    page = (ROOT / "docs/own-method.md").read_text()
    code, node = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "yaml"))
    assert code is not None and node is not None
    assert len((code[1] + node[1]).splitlines()) < 40
    assert yaml.safe_load(node[1])["learner"]["_target_"] == "one_rate.OneRate"
    (tmp_path / "one_rate.py").write_text(code[1])
    (tmp_path / "conf/algorithm").mkdir(parents=True)
    (tmp_path / "conf/algorithm/one_rate.yaml").write_text(node[1])
    search = f"hydra.searchpath=[file://{tmp_path}/conf]"
    arguments = tiny("algorithm=one_rate", "optim.outer_optimizer.lr=0.1", search)
    succeed(*arguments, folder=tmp_path / "run", PYTHONPATH=str(tmp_path))
    import torch

    weights = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert float(weights["learner.log_rate"]) != pytest.approx(math.log(0.4), abs=1e-3)  # it was learned


def test_two_runs_are_compared(tmp_path: Path) -> None:
    for name in ("maml", "protonet"):
        succeed(*tiny(f"algorithm={name}", "logging=csv"), folder=tmp_path / name)
    runs = [str(tmp_path / name) for name in ("maml", "protonet")]
    picture = tmp_path / "picture.png"

    def compared(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return program("src/compare.py", *runs, *arguments)

    done = compared("--output", str(picture))
    means = [json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("maml", "protonet")]
    difference = means[1]["metatest/outer_accuracy"] - means[0]["metatest/outer_accuracy"]
    assert done.returncode == 0, done.stderr
    assert f"{abs(difference):.2%}" in done.stdout and Image.open(picture).size[0] > 500
    refused = compared(str(tmp_path), "--output", str(picture))
    assert refused.returncode == 1 and refused.stderr.startswith("error: RUN=") and "tasks.csv" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
