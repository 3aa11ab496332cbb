"""Where this project is, at which commit, on which machine; and its configuration, composed and built.

What the benchmarks take from the package beside its data, models, inner loops and algorithms is imported here.
"""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra

from lightning_maml.shell import command_line  # noqa: F401  # registers the resolvers that the configuration uses

ROOT = Path(__file__).resolve().parents[1]


def composed(*overrides: str) -> Any:
    """Return the configuration that `src/run.py` has with these overrides."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return hydra.compose("default", overrides=list(overrides))


def data_of(cfg: Any, stage: str) -> Any:
    """Return the prepared datamodule of a configuration; `stage` is Lightning's, "fit" or "test"."""
    data: Any = hydra.utils.instantiate(cfg.data.datamodule)
    data.prepare_data()
    data.setup(stage)
    return data


def code_version() -> str:
    """Return the commit of this code, with "-dirty" if files have changed since; "unknown" without git."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware() -> str:
    """Name the GPU, or the processor and the number of cores that this process may use."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{cores} core{'s' if cores != 1 else ''} of {processor}"


def software() -> str:
    """Name the versions of Python and PyTorch."""
    return f"Python {platform.python_version()}, torch {version('torch')}"


def write(path: Path, text: str) -> None:
    """Write a text file that takes its name only when it is complete."""
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
