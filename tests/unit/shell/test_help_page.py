"""The page that --help prints."""

import re
from itertools import product
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lightning_maml.shell import command_line, help_page
from tests.paths import ROOT

assert command_line  # registers what the YAMLs may ask for
GROUPS = ("data", "model", "inner_loop", "optim", "algorithm", "train", "logging", "experiment")


def page(*overrides: str) -> str:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("default", overrides=list(overrides), return_hydra_config=True)
    return str(OmegaConf.select(cfg, "hydra.help.template")).replace("$$", "$")


def test_every_group_is_there_with_each_member_and_what_it_is() -> None:
    lines = page().splitlines()
    for group in GROUPS:
        (start,) = (index for index, line in enumerate(lines) if line.startswith(f"{group}: "))
        shown = lines[start + 1 : lines.index("", start)]
        files = {path.stem: path for path in (ROOT / "conf" / group).glob("*.yaml")}
        rows = [line for line in shown if line[4:].split()[0] in files]
        families = " ".join(line.strip() for line in shown if line not in rows).removeprefix("and ")
        short = {line[4:].split()[0] for line in rows}
        assert short | set(expanded(families)) == set(files)
        for line in rows:
            name, _, said = line[4:].partition(" ")
            assert len(said.strip()) > 20, f"{name} has no description"
            assert not said.endswith("…"), f"the first line of conf/{group}/{name}.yaml is too long"
            assert f"# {said.strip()}\n" in files[name].read_text()


def expanded(families: str) -> list[str]:
    """The names that `a_{1,2}_{3,4}, b_5` stands for."""
    names = []
    for family in families.split(", ") if families else ():
        choices = [part.split(",") for part in re.split(r"[{}]", family)]
        names += ["".join(parts) for parts in product(*choices)]
    return names


def test_what_would_be_run_is_marked_and_its_values_are_shown() -> None:
    default, other = page(), page("experiment=quickstart", "data.datamodule.nway=7")
    assert re.findall(r"^  \* (\w+)", default, re.MULTILINE)[:2] == ["omniglot", "conv4"]
    assert re.findall(r"^  \* (\w+)", other, re.MULTILINE)[:2] == ["glyphs", "conv4_small"]
    assert "data.datamodule.nway=5 " in default and "data.datamodule.nway=7 " in other
    for key in help_page.SETTINGS:
        assert f"  {key}=" in default, f"{key} is no setting"


@pytest.mark.parametrize("overrides", [(), ("algorithm=imaml", "data=sinusoid", "model=mlp")])
def test_it_fits_a_screen(overrides: tuple[str, ...]) -> None:
    lines = page(*overrides).splitlines()
    assert max(map(len, lines)) <= help_page.WIDTH and len(lines) < 120


def test_a_published_setting_that_is_picked_is_marked() -> None:
    chosen = page("experiment=omniglot_maml_5way_1shot")
    assert re.search(r"^  \* omniglot_maml_5way_1shot MAML, 5-way 1-shot: 98\.7", chosen, re.MULTILINE)
    assert "data.datamodule.nway=5 " in chosen and "algorithm.eval_inner_steps=3 " in chosen


def test_a_setting_that_would_not_be_there_is_left_out() -> None:
    assert "model.torch_module.num_filters" not in page("model=mlp", "data=sinusoid")


def test_its_examples_are_commands_of_the_readme_or_the_makefile() -> None:
    """Which other tests run."""
    commands = (ROOT / "README.md").read_text() + (ROOT / "Makefile").read_text()
    for example in help_page.EXAMPLES:
        assert re.search(rf"python src/run.py {re.escape(example)}( \$\(ARGS\))?$", commands, re.MULTILINE), example


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("# What it is\n# and more\na: 1\n", "What it is"),
        ("# @package _global_\n# python src/run.py experiment=x\n# What it is\n", "What it is"),
        ("a: 1 # no header\n# What it is not\n", ""),
    ],
)
def test_a_description_is_the_first_comment_that_is_no_command(tmp_path: Path, header: str, expected: str) -> None:
    (tmp_path / "member.yaml").write_text(header)
    assert help_page.description(tmp_path / "member.yaml") == expected


def test_a_new_member_appears_with_its_first_comment(tmp_path: Path) -> None:
    """Also one of a folder given by --config-dir."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# A network of my own.\n" + yaml.safe_dump({"torch_module": {}}))
    assert re.search(r"^    mine +A network of my own\.$", page(f"hydra.searchpath=[{tmp_path}]"), re.MULTILINE)
