"""The checkpoints that a run keeps."""

import io
import logging
import re
import shutil
from pathlib import Path
from typing import Any
from weakref import proxy

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from lightning_maml.arguments import Count, checked
from lightning_maml.checkpoint_files import LAST, is_whole, previous_of, require_few
from lightning_maml.errors import SettingError, one_line
from lightning_maml.files import replacing
from lightning_maml.training.checkpoint_checks import can_be_tested, read_checkpoint

log = logging.getLogger(__name__)


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint so that its file is either the whole new one or the one before, wherever it is killed; and
    keeps, beside a `last.ckpt`, the whole one before it as `last.previous.ckpt`, should the disk lose the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # In memory first: PyTorch's writer of files says of a full disk only that it is at the wrong place.
        content = io.BytesIO()
        try:
            require_few(checkpoint)
            torch.save(checkpoint, content)
            kept = previous_of(path) if path.name == LAST and is_whole(path) else None
            with replacing(path, "wb", keep=kept) as file:
                file.write(content.getbuffer())
                file.flush()
                torch.load(file.name, map_location="cpu", weights_only=True, mmap=True)
        except OSError:
            raise
        except Exception:
            require_readable(checkpoint)
            raise


def require_readable(checkpoint: dict[str, Any]) -> None:
    """Check that each part of a checkpoint can be read back, as nobody could go on from it otherwise.

    Raises:
        SettingError: naming the callback, or the part, that holds more than tensors and plain values.
    """
    states = {("train.callbacks", name.partition("{")[0]): one for name, one in checkpoint["callbacks"].items()}
    others = {("checkpoint", name): one for name, one in checkpoint.items() if name != "callbacks"}
    for (setting, name), part in (states | others).items():
        content = io.BytesIO()
        try:
            require_few(part)
            torch.save(part, content)
            content.seek(0)
            torch.load(content, weights_only=True)
        except Exception as error:
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = named[1] if named else one_line(error)[:200]
            remedy = (
                f"what it keeps in checkpoints could not be read again ({what}); let it keep tensors, numbers and text"
            )
            raise SettingError(setting, name, remedy) from error


def _ends(trainer: pl.Trainer) -> bool:
    """Whether the meta-batch that Lightning has just trained on is the last of the fit."""
    steps = 0 <= trainer.max_steps <= trainer.global_step
    epochs = trainer.is_last_batch and 0 <= (trainer.max_epochs or -1) <= trainer.current_epoch + 1
    enough = trainer.global_step >= (trainer.min_steps or 0) and trainer.current_epoch >= (trainer.min_epochs or 0)
    return steps or epochs or (trainer.should_stop and enough)


def validation_follows(trainer: pl.Trainer) -> bool:
    """Whether Lightning validates after the meta-batch that it has just trained on."""
    if not trainer.enable_validation:
        return False
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    every = trainer.check_val_every_n_epoch
    if every is None:
        return bool(batches.total.ready % trainer.val_check_batch == 0)
    return (trainer.current_epoch + 1) % every == 0 and batches.current.ready % trainer.val_check_batch == 0


class Checkpoint(ModelCheckpoint):
    """One file in the run's folder, rewritten after validations: the best by `monitor`, or without one the last. A fit
    that ends between validations validates once more, after its last is kept.

    A run that is resumed in a new folder takes the best checkpoint so far along. Nothing is written in a dry run.

    Args:
        dirpath: the folder.
        filename: the file's name in it, without its ending; the same for every checkpoint, which replaces the last.
        monitor: the metric that decides; None to keep the last.
        mode: "max" or "min".
        every_n_steps: keep the last not only after validations, but also after every so many meta-updates.

    Raises:
        SettingError: if `every_n_steps` is no number of at least 1, or `filename` no name of a single file.
    """

    @checked
    def __init__(
        self,
        dirpath: str,
        filename: str,
        monitor: str | None = None,
        mode: str = "min",
        every_n_steps: Count | None = None,
    ) -> None:
        if re.search(r"[{}/\\]", filename):
            remedy = "it is rewritten, so it has one name, and metrics.csv the metrics; give one without {, }, / and \\"
            raise SettingError(f"train.checkpoint.{'best' if monitor else 'last'}.filename", filename, remedy)
        self._every_n_steps = every_n_steps
        self._before_fits: dict[str, Any] | None = None
        self._validates: Any = None
        super().__init__(
            dirpath, filename, monitor=monitor, mode=mode, save_on_train_epoch_end=False, enable_version_counter=False
        )

    def state_dict(self) -> dict[str, Any]:
        """The best score alone: where the file lies now, its resumed run knows."""
        return {"best_model_score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.monitor is not None:
            self.best_model_score = state_dict["best_model_score"]

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Look at the best checkpoint beside the one that this run goes on from, while no callback has its state."""
        if trainer.state.fn == "fit" and self.monitor is not None:
            before = Path(str(trainer.ckpt_path)).with_name(self._path.name)
            fits = can_be_tested(before, pl_module, trainer)
            # Its own score: that in the other one may be older.
            self._before_fits = read_checkpoint(str(before))["callbacks"].get(self.state_key) if fits else None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Copy the best checkpoint here, which lies beside the one that this run goes on from."""
        if trainer.ckpt_path is None or self.best_model_score is None:
            return
        path, before = self._path, Path(trainer.ckpt_path).with_name(self._path.name)
        self.best_model_score = (self._before_fits or {}).get("best_model_score")
        if self.best_model_score is None:
            log.warning("%s is gone, damaged or another run's; the best checkpoint is sought anew from here", before)
            return
        if before.resolve() != path.resolve() and trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            with before.open("rb") as found, replacing(path, "wb") as file:
                shutil.copyfileobj(found, file)
        trainer.strategy.barrier("the best checkpoint has moved in")
        self.best_model_path = self.kth_best_model_path = str(path)
        self.kth_value, self.best_k_models = self.best_model_score, {str(path): self.best_model_score}
        self._tell_loggers(trainer)  # those that keep the best are to have this one, even if no better one comes

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find now, not after hours, a callback whose state makes checkpoints that nobody can read."""
        super().on_train_start(trainer, pl_module)
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        require_readable({"callbacks": {callback.state_key: callback.state_dict() for callback in callbacks}})
        self._validates = trainer.val_check_batch, trainer.check_val_every_n_epoch

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_train_batch_end(trainer, *args)
        if validation_follows(trainer):
            return  # and the checkpoint after it; from one before it, a resumed run would leave it out
        # Steps or time end the run here. At its very end Lightning would take the epoch for complete.
        ends = _ends(trainer)
        if ends or (self._every_n_steps and trainer.global_step % self._every_n_steps == 0):
            self._save_last(trainer)
        if ends and self.monitor is None:  # what is tested is validated; a resumed run knows nothing of it
            trainer.val_check_batch = trainer.check_val_every_n_epoch = 1

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Without validation, nothing has been saved yet."""
        self._save_last(trainer)
        trainer.val_check_batch, trainer.check_val_every_n_epoch = self._validates

    def _save_last(self, trainer: pl.Trainer) -> None:
        saved = self._last_global_step_saved == trainer.global_step
        if self.monitor is None and not saved and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self._path, weights_only=False)
            self._last_global_step_saved = trainer.global_step
            self.best_model_path = str(self._path)
            self._tell_loggers(trainer)

    def _tell_loggers(self, trainer: pl.Trainer) -> None:
        """As Lightning does when it saves."""
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(self))

    @property
    def _path(self) -> Path:
        return Path(str(self.dirpath)) / f"{self.filename}.ckpt"
