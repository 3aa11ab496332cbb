"""What `python src/run.py …` refuses, found without a process of its own: the same functions, one after another."""

import contextlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from lightning_maml.shell import command_line
from tests.integration.command import environment, tiny
from tests.integration.refusals import CSV, the_line
from tests.paths import ROOT


@cache
def main_of(program: str) -> Callable[..., Any]:
    """Return the main function of a program in src/."""
    spec = importlib.util.spec_from_file_location(f"main_of_{program}", ROOT / "src" / f"{program}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main  # type: ignore[no-any-return]


def end_of(program: str, config: str, arguments: tuple[str, ...], folder: Path) -> tuple[int, str, str]:
    """Return how `src/PROGRAM.py ARGUMENTS` ends: its exit code, and what it has printed to both streams."""

    def task() -> None:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose(config, overrides=[*sys.argv[1:], f"hydra.run.dir={folder}"], return_hydra_config=True)
        with open_dict(cfg):
            cfg.hydra.runtime.output_dir, cfg.hydra.job.num, cfg.hydra.mode = str(folder), 0, "RUN"
        folder.mkdir(parents=True, exist_ok=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        main_of(program)(cfg)

    code, stdout, stderr = 0, io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment(), clear=True),
        mock.patch.object(sys, "argv", [f"src/{program}.py", *arguments]),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            command_line.launch(task)
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            command_line.forget()
            HydraConfig.instance().cfg = None
    return code, stdout.getvalue(), stderr.getvalue()


def refuse_here(*arguments: str, folder: Path) -> str:
    """Return the one line by which src/run.py refuses a tiny run, after checking that nothing else was left or said."""
    log = [] if any(argument.startswith("logging=") for argument in arguments) else [CSV]
    return the_line(*end_of("run", "default", tiny(*log, *arguments), folder), folder)
