"""The checkpoints that a run keeps."""

import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint


class Checkpoint(ModelCheckpoint):
    """One file in the run's folder, rewritten after validations: the best by `monitor`, or without one the last.

    A run that is resumed in a new folder takes the best checkpoint so far along. Nothing is written in a dry run.

    Args:
        dirpath: the folder.
        filename: the file's name in it, without its ending.
        monitor: the metric that decides; None to keep the last.
        mode: "max" or "min".
    """

    def __init__(self, dirpath: str, filename: str, monitor: str | None = None, mode: str = "min") -> None:
        super().__init__(
            dirpath, filename, monitor=monitor, mode=mode, save_on_train_epoch_end=False, enable_version_counter=False
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.monitor is not None:
            super().load_state_dict({**state_dict, "dirpath": self.dirpath})  # which would forget it in a new folder

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move in with the best checkpoint of the run that this one goes on from."""
        if not self.best_model_path:
            return
        before, path = Path(self.best_model_path), Path(str(self.dirpath)) / f"{self.filename}.ckpt"
        if not before.is_file():
            self.best_model_path, self.best_model_score, self.best_k_models = "", None, {}
        elif before.resolve() != path.resolve():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(before, path)
            self.best_model_path = self.kth_best_model_path = str(path)
            self.best_k_models = {str(path): self.best_k_models[str(before)]}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super().on_train_end(trainer, pl_module)
