"""Overrides and YAMLs as people have them: as they were once called, with dashes, or misspelt; and what was meant."""

import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_maml.errors import SettingError, one_line

CONF = Path(__file__).resolve().parents[3] / "conf"
_PATHS = ("train.ckpt_path", "data.root", "data.datamodule.cache_dir", "hydra.run.dir", "hydra.sweep.dir")
_MANY = 30  # members, more than a line has room for
_CLOSE = 0.7  # as difflib measures: to max_epoch, max_epochs has 0.95 and max_steps 0.67
_NO_NAME = re.compile(r"null|~|true|false|[-+\d.]+", re.IGNORECASE)  # of a group's member, which Hydra takes as text
# What lightning-maml called its classes.
_FORMER = {
    "pl.datamodule.MetaDataModule": "lightning_maml.data.MetaDataModule",
    "common.transform.Rotation": "torchmeta.transforms.Rotation",
}
# Published experiments were once in folders, experiment=omniglot/maml_5way_1shot; commands and records still say so.
_FORMER_FOLDERS = re.compile(r"\b(omniglot|miniimagenet|sinusoids)/")
_FORMER_HEADER = "# @package _group_: Hydra 1.0 wanted this first line in a YAML, today's does not; delete it"


def quoted(arguments: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Return the values of these settings in quotes, and those of every program's paths where they have special
    characters, so that Hydra takes them as they are: `support=My photos (1)`. Lists, choices of a sweep, and what is in
    quotes already are left alone."""
    result, sweep = [], {"-m", "--multirun"} & set(arguments)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        special = re.search(r"[^\w./:@%+~-]", value) and not (sweep and re.search(r"[,(]", value))
        is_path = name in paths or (name in _PATHS and special)
        if equals and is_path and value and value[0] not in "[\"'" and "${" not in value:
            argument = _quoted(name, value)
        result.append(argument)
    return result


def _quoted(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}="{escaped}"'


def as_hydra_takes_them(arguments: list[str]) -> list[str]:
    """Return the command line in today's words, and `-m` in front: argparse takes overrides in one piece only.

    Raises:
        SettingError: for a setting that is written as an option.
    """
    arguments = [new for argument in arguments for new in translate(argument) if not _is_default_null(argument)]
    for argument in arguments:
        group, _, member = argument.partition("=")
        if (CONF / group).is_dir() and _NO_NAME.fullmatch(member):
            raise SettingError(group, member, f"this is no member; choose from {', '.join(_members(group))}")
        dashed = re.fullmatch(r"--(?!cfg=|info=|package=)([a-z_][\w./]*)=(.*)", argument)
        if dashed is not None:
            raise SettingError(f"--{dashed[1]}", dashed[2], f"settings have no dashes; did you mean {argument[2:]}?")
    return sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))


def _is_default_null(argument: str) -> bool:
    """Return whether a group that nothing is picked of by default, as `experiment: null`, is given its default."""
    group, _, member = argument.partition("=")
    default = f"- {group}: null" in (CONF / "default.yaml").read_text(encoding="utf-8")
    return default and member in ("null", "~")


def translate(argument: str) -> list[str]:
    """Return today's form of an override as lightning-maml knew it; one line tells of a change. Others pass unchanged,
    but for an experiment's name with its former folder."""
    if argument.lstrip("+").startswith("experiment="):
        return [_FORMER_FOLDERS.sub(r"\1_", argument)]
    match = re.fullmatch(r"\+{0,2}(train\.pl_trainer\.gpus|data\.datamodule\.num_inner_steps)=(.*)", argument)
    if match is None:
        return [argument]
    key, value = match.groups()
    if key == "data.datamodule.num_inner_steps":
        today = [f"algorithm.num_inner_steps={value}"]
    elif value in ("0", "null", "None"):
        today = ["train.pl_trainer.accelerator=cpu"]
    else:
        today = ["train.pl_trainer.accelerator=gpu", f"train.pl_trainer.devices={value}"]
    print(f"{argument} is now {' '.join(today)}", file=sys.stderr)
    return today


def translate_yamls(cfg: DictConfig) -> None:
    """Make today's of YAMLs that were written for lightning-maml; one line tells of what has changed.

    Raises:
        SettingError: for a first line that puts a YAML's settings where nothing finds them.
    """
    if "_group_" in cfg:
        raise SettingError(_FORMER_HEADER)
    told, module = [], OmegaConf.select(cfg, "data.datamodule")
    with open_dict(cfg):
        for name in ("inner_optimizer", "outer_optimizer"):
            if isinstance(optimizer := OmegaConf.select(cfg, f"optim.{name}"), DictConfig):
                optimizer.setdefault("_partial_", True)  # its parameters are given later, always
        if not isinstance(module, DictConfig):
            return
        for node in (module, *(module.get("class_augmentations") or [])):
            if isinstance(node, DictConfig) and (former := node.get("_target_")) in _FORMER:
                node["_target_"] = _FORMER[former]
                told.append(f"{former} is now {_FORMER[former]}")
        if "num_inner_steps" in module:
            steps = cfg.algorithm.num_inner_steps  # unless a method, an experiment or the command line says otherwise
            cfg.algorithm.num_inner_steps = steps
            told.append(f"num_inner_steps={module.pop('num_inner_steps')} is now algorithm.num_inner_steps={steps}")
        if module.pop("num_meta_batches", None) is not None:
            told.append("num_meta_batches, which did nothing, is now batches")
    if told:
        print(f"data.datamodule: {'; '.join(told)}", file=sys.stderr)


def what_was_meant(error: BaseException) -> str | None:
    """Return one line for an override that Hydra refuses: what was typed, and the nearest right one. None for other
    errors."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, member = str(error.missing_cfg_file).rpartition("/")
        return _of_member(group, member, error.options or _members(group))
    if isinstance(error, OverrideParseException):
        name, equals, value = error.override.partition("=")
        if equals and value:
            remedy = f"to have the value taken as it is, quote it: {shlex.quote(_quoted(name, value))}"
            return f"{error.override}: {one_line(error).partition(' See https')[0]}; {remedy}"
    if isinstance(error, ConfigCompositionException):
        unknown = re.search(r"^To append to your config use \+(.*)", str(error), re.MULTILINE)
        if unknown is not None:
            return _of_key(unknown[1], error.__cause__)
        deleted = re.match(r"Could not delete from config\. '(.*)' does not exist", str(error))
        if deleted is not None:
            return f"~{deleted[1]}: there is no such setting to delete; --cfg job prints those that there are"
    return None


def _of_member(group: str, member: str, members: Iterable[str]) -> str:
    members = list(members)
    near = get_close_matches(member, members, n=1)
    meant = f"did you mean {group}={near[0]}? " if near else ""
    listed = ", ".join(members) if len(members) <= _MANY else f"the YAMLs of conf/{group}"
    return f"{group}={member}: there is no such member; {meant}choose from {listed}"


def _of_key(typed: str, cause: Any) -> str:
    """Return the line for `key=value`; `cause` is OmegaConf's error, which knows the configuration that lacks the
    key."""
    key, _, value = typed.partition("=")
    inner = getattr(cause, "full_key", None) or ""
    if inner.startswith(f"{key}."):  # in a mapping that was given as a whole
        key, value = inner, "…"
    node = getattr(cause, "parent_node", None)
    root: Any = None if node is None else OmegaConf.to_container(node._get_root(), resolve=False)
    if "_group_" in (root or ()):
        return _FORMER_HEADER
    near = nearest(key, [*_members(""), *_paths(root)])
    if near:
        meant = f"did you mean {' or '.join(f'{path}={value}' for path in near)}? To add a new one: +{key}={value}"
    else:
        meant = f"--cfg job prints those that there are. To add a new one: +{key}={value}"
    return f"{key}={value}: there is no such setting; {meant}"


def nearest(key: str, paths: Iterable[str]) -> list[str]:
    """Return the paths that are written almost like `key`, or end in almost that: the best, and those as good and as
    short."""
    scores = {path: _alike(key, path) for path in paths}
    best = max(scores.values(), default=0)
    if best < _CLOSE:
        return []
    found = [path for path, score in scores.items() if score == best]
    shortest = min(path.count(".") for path in found)
    return [path for path in found if path.count(".") == shortest][:3]


def _alike(key: str, path: str) -> float:
    """Return the mean of the likeness of the names at the end, and of the whole (of as much of the path as was
    typed)."""
    typed = path.split(".")[-key.count(".") - 1 :]
    whole = max(_ratio(key, path), _ratio(key, ".".join(typed)))
    return (_ratio(key.split(".")[-1], typed[-1]) + whole) / 2


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _members(group: str) -> list[str]:
    """Return the members of a group of conf/; of "", the groups."""
    folder = CONF / group
    return sorted(path.stem for path in (folder.iterdir() if folder.is_dir() else ()) if group == "" or path.is_file())


def _paths(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted paths of all keys of nested mappings."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _paths(value, f"{prefix}{key}.")
