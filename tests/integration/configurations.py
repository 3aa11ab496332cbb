"""Any combination of group members and in-range settings, drawn by hypothesis; the members are those that conf/ has."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.integration.command import run
from tests.paths import ROOT

# Tiny, whatever is picked. One device, for `train=ddp` would start two processes a run.
SMALL = {
    "data.datamodule.batch_size": "{train: 2, val: 2, test: 2}",
    "data.datamodule.batches": "{train: 3, val: 1, test: 1}",
    "data.datamodule.num_workers": "{train: 0, val: 0, test: 0}",
    "train.pl_trainer.accelerator": "cpu",
    "train.pl_trainer.devices": "1",
    "train.pl_trainer.num_nodes": "1",
    "train.pl_trainer.max_epochs": "1",
    "train.pl_trainer.max_steps": "2",
    "train.pl_trainer.log_every_n_steps": "1",
}
# Of a network, where it has such a setting.
NARROW = {"num_filters": "4", "channels": "[4, 4, 4, 4]", "hidden_sizes": "[4]"}
VALUES: dict[str, list[str]] = {
    "data.datamodule.nway": ["2", "3", "{train: 3, val: 2, test: 2}"],
    "data.datamodule.kshot.support": ["1", "2"],
    "data.datamodule.kshot.query": ["1", "2"],
    "data.datamodule.cache": ["disk", "memory", "none"],
    "data.datamodule.device_resident": ["true", "false"],
    "algorithm.num_inner_steps": ["0", "1", "2"],
    "algorithm.eval_inner_steps": ["null", "0", "1", "2"],
    "algorithm.gradient_clip_val": ["null", "0.5"],
    "algorithm.accumulate": ["1", "2"],
    "algorithm.log_every_step": ["true", "false"],
    "optim.inner_optimizer.lr": ["0.001", "0.1"],
    "optim.outer_optimizer.lr": ["0.0001", "0.01"],
    "train.seed": ["0", "3"],
    "train.deterministic": ["true", "false"],
    "train.test": ["true", "false"],
    "train.matmul_precision": ["highest", "high", "medium"],
    "train.early_stopping.patience": ["null", "1"],
    "train.checkpoint.every_n_steps": ["null", "1"],
    "train.pl_trainer.precision": ["32-true", "64-true", "bf16-mixed"],
    "train.pl_trainer.fast_dev_run": ["true", "false"],
    "train.pl_trainer.num_sanity_val_steps": ["0", "1"],
    "train.callbacks.curves": ["null"],
    "train.callbacks.examples": ["null"],
    "train.callbacks.adaptation": ["null"],
}


class Outcome(NamedTuple):
    """What became of a configuration: trained, refused in one line, or neither, with what it said."""

    kind: str
    said: str


@cache
def members() -> dict[str, list[str]]:
    """Of each group of conf/default.yaml, the YAMLs in its folder but for those that others are made of."""
    defaults: list[dict[str, str | None]] = yaml.safe_load((ROOT / "conf/default.yaml").read_text())["defaults"][:]
    groups = [group for entry in defaults if isinstance(entry, dict) for group in entry]
    files = {group: sorted((ROOT / "conf" / group).rglob("*.yaml")) for group in groups}
    return {
        group: [
            str(path.relative_to(ROOT / "conf" / group).with_suffix("")) for path in found if "base" not in path.parts
        ]
        for group, found in files.items()
    }


@cache
def own_settings(group: str, member: str) -> dict[str, Any]:
    """The settings of a member with their values, those that it takes over from others of its group included."""
    path = ROOT / "conf" / group / f"{member}.yaml"
    node = yaml.safe_load(path.read_text()) or {} if path.exists() else {}
    taken_over: dict[str, Any] = {}
    for other in node.pop("defaults", []):
        if isinstance(other, str) and other != "_self_":
            taken_over |= own_settings(group, other)
    return taken_over | dict(_leaves(node, group))


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}")
    else:
        yield path, node


def _others(value: Any) -> list[str]:
    """Values as good as this one of a member's own setting; none where nothing can be said."""
    if isinstance(value, bool):
        return ["true", "false"]
    if isinstance(value, int) and value > 0:
        return [str(value), "1", "2"]
    if isinstance(value, float) and value > 0:
        return [str(value), str(value / 2), str(value * 2)]
    return []


@st.composite
def configurations(draw: st.DrawFn, group: str, member: str) -> list[str]:
    """The overrides of a run that has this member of this group; the rest is drawn."""
    every = members()
    picked = {group: member}
    for one, names in every.items():
        if one == group:
            continue
        if one in ("data", "model"):
            # A network of images on a regression is refused, and so is what is not downloaded; most are to train.
            usual = {"data": ["glyphs"], "model": ["conv4_small"]}[one]
            picked[one] = draw(st.sampled_from(names) if draw(st.integers(0, 3)) == 0 else st.sampled_from(usual))
        elif draw(st.booleans()) and (one != "experiment" or draw(st.integers(0, 3)) == 0):
            picked[one] = draw(st.sampled_from(names))
    if picked.get("logging") is None:
        picked["logging"] = "csv"
    chosen = SMALL | {"data.datamodule.kshot": "{support: 1, query: 1}"}
    own = {name: value for one, name_of in picked.items() for name, value in own_settings(one, name_of).items()}
    for setting in own:
        narrow = NARROW.get(setting.rpartition(".")[2])
        if narrow is not None and setting.startswith("model."):
            chosen[setting] = narrow
    tried = list(VALUES.items())
    tried += [
        (setting, _others(value))
        for setting, value in own.items()
        if setting.startswith(("inner_loop.", "algorithm.learner.", "algorithm.objective.", "model."))
        and _others(value)
    ]
    for setting, values in draw(st.lists(st.sampled_from(tried), max_size=5, unique_by=lambda one: one[0])):
        chosen.setdefault(setting, draw(st.sampled_from(values)))
    overrides = [f"{one}={name}" for one, name in picked.items()]
    # a mapping takes the place of what the member says of it, in whole
    return overrides + [f"{setting}={value}" for setting, value in chosen.items()]


def drawn(number: int, seed_of_all: int) -> list[list[str]]:
    """So many configurations, the same for the same seed. Groups take turns, and in each its members, so that with
    enough of them each member has its own."""
    turns = list(_turns(number))
    examples = {turn: _examples(*turn, turns.count(turn), seed_of_all) for turn in dict.fromkeys(turns)}
    return [examples[turn].pop() for turn in turns]


def _turns(number: int) -> Iterator[tuple[str, str]]:
    every = {group: names for group, names in members().items() if names}
    groups = list(every)
    for turn in range(number):
        group = groups[turn % len(groups)]
        yield group, every[group][turn // len(groups) % len(every[group])]


def _examples(group: str, member: str, number: int, seed_of_all: int) -> list[list[str]]:
    found: list[list[str]] = []

    @seed(crc32(f"{seed_of_all} {group} {member}".encode()))
    @settings(
        max_examples=number + 1,  # the first is the simplest, always
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(configurations(group, member))
    def collect(overrides: list[str]) -> None:
        found.append(overrides)

    collect()
    return found[-number:]


def outcome(overrides: list[str], folder: Path) -> Outcome:
    """Run it, without a network; `folder` is the run's."""
    nowhere = "http://127.0.0.1:9"
    try:
        done = run(
            *overrides, folder=folder, timeout=180, http_proxy=nowhere, https_proxy=nowhere, WANDB_MODE="offline"
        )
    except subprocess.TimeoutExpired:
        return Outcome("failed", "it did not end within three minutes")
    said = [line for line in done.stderr.splitlines() if re.match(r"(process \d+: )?error: ", line)]
    if "Traceback" in done.stderr:
        return Outcome("failed", done.stderr.strip().splitlines()[-1])
    if done.returncode == 0:
        wrote = (folder / "checkpoints/last.ckpt").is_file() or "train.pl_trainer.fast_dev_run=true" in overrides
        return (
            Outcome("trained", "") if wrote and not said else Outcome("failed", "it ended well and left no checkpoint")
        )
    if done.returncode in (1, 2) and len(said) == 1:
        return Outcome("refused", said[0])
    return Outcome("failed", f"exit code {done.returncode}: {done.stderr.strip()[-300:]}")
