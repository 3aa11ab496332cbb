"""Check a sweep's launcher and search before its first job; Hydra's plugins would find out in their middle."""

import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightning_maml.arguments import Count, require
from lightning_maml.errors import SettingError


def check_sweep(config: DictConfig) -> None:
    """Check who runs the jobs, what chooses them, and where they go; make the sweep's folder.

    Args:
        config: that of the sweep.

    Raises:
        SettingError: for the first setting that cannot work.
    """
    launcher, sweeper = config.hydra.launcher, config.hydra.sweeper
    if str(launcher._target_).endswith(".SlurmLauncher") and shutil.which("srun") is None:
        remedy = "there is no SLURM here (srun is not found); hydra=submitit_local runs the jobs on this machine"
        raise SettingError("hydra", "slurm", remedy)
    for path, node in (("hydra.launcher", launcher), ("hydra.sweeper", sweeper)):
        if node.get("n_jobs") == 0:
            raise SettingError(f"{path}.n_jobs", 0, "give how many run at once, from 1; -1 for as many as cores")
    if "n_trials" in sweeper:
        _check_search(sweeper)
    folder = Path(config.hydra.sweep.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError("hydra.sweep.dir", folder, f"it cannot be made ({error.strerror}); give another") from error


def _check_search(sweeper: Any) -> None:
    """Check Optuna's settings: how many trials, what is better, and where they are kept."""
    require("hydra.sweeper.n_trials", sweeper.n_trials, Count)
    if sweeper.direction not in ("minimize", "maximize"):
        raise SettingError("hydra.sweeper.direction", sweeper.direction, "give minimize or maximize")
    storage = sweeper.get("storage")
    if storage is not None and "://" not in str(storage):
        raise SettingError("hydra.sweeper.storage", storage, "give a database as sqlite:///FILE, or null for none")
