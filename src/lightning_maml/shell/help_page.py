"""Write the page that `--help` prints. Its groups and their members come from conf/: a group is a folder, what it
decides stands beside it in default.yaml, and the first comment of a member's file says what the member is."""

import json
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

WIDTH = 100
_CUT = " …"
_NAME = 14  # letters of a member's name; longer ones, of published settings, stand together

# Commands of the README, where a test finds and runs them.
EXAMPLES = {
    "experiment=quickstart": "MAML on printed characters, without a download, in minutes: what make train runs",
    "algorithm=anil algorithm.num_inner_steps=5 algorithm.eval_inner_steps=10": "another method, more inner steps",
    "experiment=quickstart train.seed=1,2,3 optim.inner_optimizer.lr=0.1,0.4 -m": "a sweep: six runs",
}

SETTINGS = {
    "data.datamodule.nway": "classes of a task",
    "data.datamodule.kshot.support": "samples of each class to adapt on",
    "data.datamodule.kshot.query": "samples of each class to be judged by",
    "data.datamodule.batch_size.train": "tasks in a meta-batch",
    "model.torch_module.num_filters": "width of the network",
    "algorithm.num_inner_steps": "inner steps in meta-training",
    "algorithm.eval_inner_steps": "inner steps in validation and test; null: the same",
    "optim.inner_optimizer.lr": "step size of the inner loop",
    "optim.outer_optimizer.lr": "step size of the outer loop",
    "train.seed": "the run's random numbers; test tasks stay the same",
    "train.pl_trainer.max_epochs": "epochs, with a validation after each",
    "train.pl_trainer.fast_dev_run": "true: one meta-batch of everything, nothing kept",
    "train.ckpt_path": "a checkpoint to resume from",
}

_MORE = {
    "--cfg job [-p GROUP]": "print every setting that would be run with, or those of one group",
    "KEY=A,B,C -m": "a sweep: one run for each value, or for each combination of values",
    "+KEY=VALUE": "add a setting that is not there, such as an argument of your own network",
    "hydra.run.dir=FOLDER": "write the run there instead of into experiments/DATE/TIME",
    "-sc install=bash": "print what makes Tab complete all of these; README.md says how to use it",
}


def help_page(*, _root_: Any) -> str:
    """Return the page, as a template of Hydra's.

    Args:
        _root_: the whole configuration, as the command line composes it: what it picks is marked, its values are shown.
    """
    assert isinstance(_root_, DictConfig)
    parts = [
        _introduction(sys.modules["__main__"].__doc__ or ""),
        "Examples:",
        *_examples(),
        "",
        *_groups(_root_),
        "Settings used most: KEY=VALUE, here with the values that would be run with.",
        *_settings(_root_),
        "And:",
        *(_row(left, right, 24) for left, right in _MORE.items()),
    ]
    return "\n".join(parts).replace("$", "$$")


def settings_page(name: str, *, _root_: Any) -> str:
    """Return the page of a program with a few settings of its own: its YAML, which says what each is, from the first
    blank line to where Hydra's begin."""
    sources = [Path(source.path) for source in _root_.hydra.runtime.config_sources if source.schema == "file"]
    text = next(file for source in sources if (file := source / f"{name}.yaml").exists()).read_text(encoding="utf-8")
    settings = text.partition("\n\n")[2].partition("\nhydra:")[0].strip()
    parts = [_introduction(sys.modules["__main__"].__doc__ or ""), "Settings (??? must be given):", settings]
    return "\n".join(parts).replace("$", "$$")


def description(file: Path) -> str:
    """Return what a YAML is: its first comment that is no package directive and no command; empty if it has none."""
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#"):
            return ""
        if not text.startswith(("@package", "python ", "make ")):
            return text
    return ""


def _introduction(program: str) -> str:
    return "".join(textwrap.fill(paragraph, WIDTH) + "\n\n" for paragraph in program.strip().split("\n\n"))[:-1]


def _examples() -> Iterator[str]:
    for arguments, meaning in EXAMPLES.items():
        yield f"  python src/run.py {arguments}"
        yield f"      {meaning}"


def _groups(root: DictConfig) -> Iterator[str]:
    sources = [Path(source.path) for source in root.hydra.runtime.config_sources if source.schema == "file"]
    yield "Choices: GROUP=MEMBER. Each is a file in conf/; * marks those that would be run."
    for group, meaning in _what_groups_decide(sources):
        files = {file.stem: file for source in reversed(sources) for file in (source / group).glob("*.yaml")}
        picked = root.hydra.runtime.choices.get(group)
        yield f"{group}: {meaning}" if meaning else group
        for name in sorted(files, key=lambda name: (name != picked, name)):
            if name == picked or len(name) <= _NAME:
                yield _row(f"{'*' if name == picked else ' '} {name}", description(files[name]), _NAME + 3)
        if families := _families(name for name in files if len(name) > _NAME):
            yield textwrap.fill(f"and {', '.join(families)}", WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4)
        yield ""


def _families(names: Iterable[str]) -> list[str]:
    """Return names that differ in numbers alone as one: `maml_{5,20}way_{1,5}shot`."""
    numbers: dict[str, list[tuple[int, ...]]] = {}
    for name in sorted(names):
        numbers.setdefault(re.sub(r"\d+", "{}", name), []).append(tuple(map(int, re.findall(r"\d+", name))))
    return [pattern.format(*map(_alternatives, zip(*each, strict=True))) for pattern, each in numbers.items()]


def _alternatives(values: Iterable[int]) -> str:
    ordered = sorted(set(values))
    return str(ordered[0]) if len(ordered) == 1 else f"{{{','.join(map(str, ordered))}}}"


def _what_groups_decide(sources: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield the groups of default.yaml in its order, each with the comment beside it."""
    for source in sources:
        if (source / "default.yaml").exists():
            lines = (source / "default.yaml").read_text(encoding="utf-8")
            yield from re.findall(r"^ *- (\w+): \w+(?: *# *(.*))?$", lines, re.MULTILINE)
            return


def _settings(root: DictConfig) -> Iterator[str]:
    for key, meaning in SETTINGS.items():
        parent, _, name = key.rpartition(".")
        if name in (OmegaConf.select(root, parent) or ()):  # not every method has a first order, nor every net filters
            value = OmegaConf.select(root, key)
            shown = json.dumps(value) if value is None or isinstance(value, bool) else value  # as YAML writes them
            yield _row(f"{key}={shown}", meaning, 40)


def _row(left: str, right: str, width: int) -> str:
    """Return one line of `left` and, from a column on, `right`, cut where the page ends."""
    left = f"  {left:<{width}}" if len(left) < width else f"  {left} "
    return left + textwrap.shorten(right, max(WIDTH - len(left), len(_CUT)), placeholder=_CUT)
