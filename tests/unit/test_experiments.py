"""Every published setting: what would be run is what its header says, and it can be built."""

import re
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lightning_maml.shell import command_line
from lightning_maml.training import OuterLoop
from tests.paths import ROOT

assert command_line  # registers what the YAMLs may ask for
CONF = ROOT / "conf" / "experiment"
FILES = sorted(CONF.glob("*_*shot.yaml"))
NAMES = [path.stem for path in FILES]
SHAPES = {"omniglot": (1, 28, 28), "miniimagenet": (3, 84, 84), "sinusoids": (1,)}
LEARNERS = {
    "maml": "MAML",
    "fomaml": "MAML",
    "anil": "ANIL",
    "meta_sgd": "MetaSGD",
    "maml_pp": "MAMLPlusPlus",
    "imaml": "MAML",
    "reptile": "MAML",
    "protonet": "ProtoNet",
}


TABLE = yaml.safe_load((ROOT / "benchmarks/results/results.yaml").read_text())
ROWS = {row["experiment"].replace("/", "_"): row for row in TABLE}


def composed(name: str, *overrides: str) -> Any:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("default", overrides=[f"experiment={name}", "logging=csv", *overrides])


def in_test(value: Any) -> int:
    return int(value if isinstance(value, int) else value.test)


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_is_of_the_problem_that_its_name_says_and_can_be_built(name: str) -> None:
    cfg, problem, rest = composed(name), *name.split("_", 1)
    method, *ways, shots = re.fullmatch(r"(\w+?)(?:_(\d+)way)?_(\d+)shot", rest).groups()  # type: ignore[union-attr]
    data = cfg.data.datamodule
    assert in_test(data.kshot.support) == int(shots)
    assert data.nway is None if ways == [None] else in_test(data.nway) == int(ways[0])
    assert in_test(data.batches) * in_test(data.batch_size) == 1000
    outputs = max([data.nway] if isinstance(data.nway, int) else (data.nway or {"": 1}).values())
    network = hydra.utils.instantiate(cfg.model.torch_module, input_shape=SHAPES[problem], num_outputs=outputs)
    learner = hydra.utils.instantiate(cfg.algorithm.learner, network=network)
    algorithm = hydra.utils.instantiate(cfg.algorithm, learner=learner)
    assert isinstance(algorithm, OuterLoop) and type(learner).__name__ == LEARNERS[method]
    assert (cfg.algorithm.objective.get("first_order") is True) == (method == "fomaml")
    optimizer = algorithm.configure_optimizers()
    assert optimizer is not None


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_a_header_holds_the_command_and_the_number_of_the_table(file: Path) -> None:
    package, command, said, *_ = file.read_text().splitlines()
    name = file.stem
    assert (package, command) == ("# @package _global_", f"# python src/run.py experiment={name}")
    number = ROWS[name]["published"] and ROWS[name]["published"].partition(" (")[0]
    assert f": {number}" in said if number else "no number is published" in said
    assert ROWS[name]["source"]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.get("minutes")])
def test_a_laptops_schedule_ends_with_its_run(name: str) -> None:
    cfg = composed(name, *ROWS[name].get("laptop", ()), "train.pl_trainer.max_steps=500")
    assert 500 in hydra.utils.instantiate(cfg.optim.lr_scheduler).keywords.values()


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if "trained_by" in row])
def test_what_a_row_is_trained_by_trains_the_same(name: str) -> None:
    own, other = (plain(composed(one)) for one in (name, ROWS[name]["trained_by"].replace("/", "_")))
    assert own == other


def plain(cfg: Any) -> Any:
    """A configuration without what concerns validation and test alone."""
    settings: Any = OmegaConf.to_container(cfg)
    settings["data"]["datamodule"]["nway"] = settings["data"]["datamodule"]["nway"]["train"]
    return settings


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"(omniglot|miniimagenet)_(fo)?maml_\d+way", 60_000),
        ("omniglot_maml_pp", 50_000),
        ("omniglot_imaml", 20_000),
        ("omniglot_reptile_5way", 100_000),
        ("omniglot_reptile_20way", 200_000),
        ("sinusoids", 70_000),
    ],
)
def test_the_meta_updates_are_those_of_the_papers(pattern: str, expected: int) -> None:
    names = [name for name in NAMES if re.match(pattern, name)]
    settings = [composed(name) for name in names]
    assert {cfg.train.pl_trainer.max_epochs * cfg.data.datamodule.batches.train for cfg in settings} == {expected}
