"""A run that is refused: one clear line, exit code 1 or 2, no traceback, and nothing left behind.

The programs' functions are called in this process, as a process of its own would call them.
"""

import contextlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from lightning_maml.shell import command_line
from tests.integration.command import environment, tiny
from tests.paths import ROOT

CSV = "logging=csv"


@cache
def main_of(program: str) -> Callable[..., Any]:
    """Return the main function of a program in src/."""
    spec = importlib.util.spec_from_file_location(f"main_of_{program}", ROOT / "src" / f"{program}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main  # type: ignore[no-any-return]


def end_of(program: str, config: str, arguments: Sequence[str], folder: Path, **env: str) -> tuple[int, str, str]:
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
        mock.patch.dict(os.environ, environment(**env), clear=True),
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


def refuse(*arguments: str, folder: Path, **env: str) -> str:
    """Return the one line by which src/run.py refuses a tiny run, after checking that nothing else was left or said."""
    log = [] if any(argument.startswith("logging=") for argument in arguments) else [CSV]
    return the_line(*end_of("run", "default", tiny(*log, *arguments), folder, **env), folder)


def the_line(code: int, stdout: str, stderr: str, folder: Path) -> str:
    """The one line of what has ended so, in that folder, after the same checks."""
    assert code in (1, 2), stdout + stderr
    assert "Traceback" not in stdout + stderr
    errors = [line for line in stderr.splitlines() if "rror" in line]
    assert len(errors) == 1 and errors[0].startswith("error: "), stderr
    left = {path.name for path in folder.iterdir()} if folder.exists() else set()
    assert left <= {".hydra", "run.log"}, left
    return errors[0]
