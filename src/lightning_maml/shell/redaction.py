"""Secrets, kept out of all that a run writes: what it prints and logs, and its configuration where that is resolved.

Secret are the values of environment variables whose names say so (`WANDB_API_KEY`, `HF_TOKEN`), and all that `.env`
holds but paths and W&B's other settings. A value of fewer than eight characters is none: it stands in many places by
chance.

Imports nothing heavy.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, TextIO

from dotenv import dotenv_values
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from lightning_maml.errors import SettingError
from lightning_maml.files import write_whole
from lightning_maml.processes import rank

_SAYS_SO = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(_|$)", re.IGNORECASE)
# What is typed is a secret by a name that ends so, whatever it is; or by one that ends in KEY or TOKEN, as an option of
# a network may, if it is not made of plain words.
_TYPED = re.compile(
    r"(^|_)(API_?KEY|(ACCESS|AUTH|SECRET)_(KEY|TOKEN)|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)$", re.IGNORECASE
)
_TYPED_PERHAPS = re.compile(r"(^|_)(KEY|TOKEN)$", re.IGNORECASE)
_WORDS = re.compile(r"[a-z]+([_/.-][a-z]+)*")
_OPEN = re.compile(r"DATASET_PATH|WANDB_\w+")  # in `.env`, too
_PATH = re.compile(r"(~|\.{1,2})?/")
_SHORTEST = 8

_names: dict[str, str] = {}  # the variable of each secret, by what the secret looks like where it is written
_secret = re.compile("(?!)")  # any of them; nothing yet


def keep_out(dotenv: Path) -> None:
    """From here on, in this process: what is printed, also as a traceback, and every record that is logged is `masked`.

    Args:
        dotenv: the file `.env`, which may be missing.
    """
    global _secret
    in_file = {name: value for name, value in dotenv_values(dotenv).items() if value and not _is_open(name, value)}
    in_environment = {name: value for name, value in os.environ.items() if name in in_file or _SAYS_SO.search(name)}
    for name, value in [*in_file.items(), *in_environment.items()]:
        for line in value.splitlines():  # of a private key, which has many
            for written in (line.strip(), repr(line.strip())[1:-1], json.dumps(line.strip())[1:-1]):
                if len(written) >= _SHORTEST:
                    _names[written] = name
    if not _names:
        return
    longest_first = sorted(_names, key=len, reverse=True)
    _secret = re.compile("|".join(map(re.escape, longest_first)))
    if not isinstance(sys.stdout, _MaskedStream):
        sys.stdout, sys.stderr = _MaskedStream(sys.stdout), _MaskedStream(sys.stderr)
        logging.setLogRecordFactory(_masking(logging.getLogRecordFactory()))


def masked(value: Any) -> Any:
    """A text, a number, or lists and mappings of them, with `***NAME***` in the place of the secret of that name."""
    if isinstance(value, dict):
        return {masked(key): masked(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(masked(one) for one in value)
    text = str(value)
    hidden = _secret.sub(lambda found: f"***{_names[found[0]]}***", text)
    return value if hidden == text else hidden


def mask_configuration() -> None:
    """Mask what Hydra has written of the task that begins, where somebody has put a secret into a YAML of conf/."""
    run = HydraConfig.get()
    if not _names or rank() or run.output_subdir is None:
        return
    files = list(Path(run.runtime.output_dir, run.output_subdir).glob("*.yaml"))
    if run.mode == RunMode.MULTIRUN and run.job.num == 0:
        files.append(Path(run.sweep.dir, "multirun.yaml"))
    for path in filter(Path.is_file, files):
        values = OmegaConf.to_container(OmegaConf.load(path))
        if masked(values) != values:
            write_whole(path, OmegaConf.to_yaml(OmegaConf.create(masked(values))))


def refuse_typed(arguments: Iterable[str]) -> None:
    """Refuse a secret on the command line, which other users see, and which is written into the run's folder.

    Raises:
        SettingError: for the first argument that holds one, or sets what is called like one.
    """
    for argument in arguments:
        setting, _, value = argument.partition("=")
        holds, name = masked(argument) != argument, setting.rpartition(".")[2]
        by_name = _TYPED.search(name) or (_TYPED_PERHAPS.search(name) and not _WORDS.fullmatch(value))
        if holds or (by_name and _is_literal(value)):
            raise SettingError(
                masked(setting),
                masked(value) if holds else "***",
                "what is typed is written into the run's folder, and this is a secret; keep it in .env as NAME=…, and "
                f"give '{masked(setting)}=${{oc.env:NAME}}'",
            )


def warn_of_readers(dotenv: Path) -> None:
    """Say so where others on this machine may read `.env`."""
    if os.name == "posix" and dotenv.is_file() and dotenv.stat().st_mode & 0o077:
        print(f"warning: others on this machine may read {dotenv}: chmod 600 {dotenv}", file=sys.stderr)


def _is_open(name: str, value: str) -> bool:
    """Whether a variable of `.env` is no secret."""
    return not _SAYS_SO.search(name) and bool(_OPEN.fullmatch(name) or _PATH.match(value))


def _is_literal(value: str) -> bool:
    """Whether it could be a secret itself: not a number, a path, or `${…}`, which names where it stands."""
    return (
        len(value) >= _SHORTEST
        and "${" not in value
        and not re.match(r"[-+.\d]*(e[-+]?\d+)?$", value)
        and not _PATH.match(value)
    )


class _MaskedStream:
    """A text stream that is written to `masked`, also by those who put a `write` of their own into its place to read
    along, as W&B does."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._write = stream.write

    @property
    def write(self) -> Callable[[str], int]:
        below = self._write  # as it is now: who replaces it later calls this
        return lambda text: below(masked(text))

    @write.setter
    def write(self, write: Callable[[str], int]) -> None:
        self._write = write

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _masking(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    @wraps(make)
    def wrapped(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            text = record.getMessage()
        except Exception:  # logging itself tells of wrong arguments, where the record is written
            return record
        if masked(text) != text:
            record.msg, record.args = masked(text), ()
        if record.exc_info:
            traceback = logging.Formatter().formatException(record.exc_info)
            if masked(traceback) != traceback:
                record.exc_text = masked(traceback)  # which formatters take for what they would make
        return record

    return wrapped
