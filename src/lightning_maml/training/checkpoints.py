"""The checkpoints that a run keeps."""

import io
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from lightning_maml.arguments import Count, checked
from lightning_maml.errors import SettingError, one_line
from lightning_maml.files import replacing
from lightning_maml.training.checkpoint_checks import can_be_tested, read_checkpoint
from lightning_maml.training.checkpoint_files import require_few

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place, then rename it. Lightning 2.6 writes it into TMPDIR and moves it, which on
    another disk is a copy that a kill cuts short."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        content = io.BytesIO()  # PyTorch's writer of files reports a full disk as a wrong position
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            file.write(content.getbuffer())


class Checkpoint(ModelCheckpoint):
    """Keep one file in the run's folder, rewritten after validations: the best by `monitor`, or without one the last.

    A fit that ends between two validations saves its last checkpoint and validates once more. A resumed run takes the
    best checkpoint from beside the one that it resumes. A dry run writes nothing.

    Args:
        dirpath: the folder.
        filename: the file's name without its suffix.
        monitor: the metric that decides; None to keep the last checkpoint.
        mode: "max" or "min".
        every_n_steps: keep the last checkpoint also after every so many meta-updates.

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
            raise SettingError("filename", filename, remedy)
        self._every_n_steps = every_n_steps
        self._saved_at = -1  # the meta-update of the last checkpoint
        self._validates: Any = None
        super().__init__(
            dirpath, filename, monitor=monitor, mode=mode, save_on_train_epoch_end=False, enable_version_counter=False
        )

    @property
    def _path(self) -> Path:
        return Path(str(self.dirpath)) / f"{self.filename}.ckpt"

    def state_dict(self) -> dict[str, Any]:
        """Return the best score alone; a resumed run knows where its files are."""
        return {"best_model_score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the best checkpoint itself, where it can be read, says what its score is."""

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Copy the best checkpoint here from beside the one that this run resumes."""
        own = checkpoint["callbacks"].get(self.state_key, {})
        if trainer.state.fn != "fit" or self.monitor is None or own.get("best_model_score") is None:
            return
        path, before = self._path, Path(str(trainer.ckpt_path)).with_name(self._path.name)
        states = read_checkpoint(str(before))["callbacks"] if can_be_tested(before, pl_module, trainer) else {}
        score = states.get(self.state_key, {}).get("best_model_score")
        if score is None:
            log.warning("%s is missing, damaged or another run's; the best checkpoint is chosen from here on", before)
            return
        if before.resolve() != path.resolve() and trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            with before.open("rb") as found, replacing(path, "wb") as file:
                shutil.copyfileobj(found, file)
        trainer.strategy.barrier("the best checkpoint is copied")
        self.best_model_path = self.kth_best_model_path = str(path)
        self.best_model_score = self.kth_value = score
        self.best_k_models = {str(path): score}
        self._tell_loggers(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            _require_readable_state(callback)
        self._validates = trainer.val_check_batch, trainer.check_val_every_n_epoch

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self.monitor is not None or validation_follows(trainer):
            return  # a run resumed from before that validation would leave it out
        # At the very end of a fit Lightning would count the epoch as complete.
        ends = _ends(trainer)
        if ends or (self._every_n_steps and trainer.global_step % self._every_n_steps == 0):
            self._save_last(trainer)
        if ends:  # a resumed run knows nothing of this validation
            trainer.val_check_batch = trainer.check_val_every_n_epoch = 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.monitor is not None:
            super().on_validation_end(trainer, pl_module)
        elif trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_last(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.val_check_batch, trainer.check_val_every_n_epoch = self._validates
        if self.monitor is None:
            self._save_last(trainer)
            kept = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint) and one.monitor]
            if not any(one.best_model_path for one in kept):
                self._tell_loggers(trainer)  # nothing was validated: the last checkpoint is all there is to keep

    def _save_last(self, trainer: pl.Trainer) -> None:
        if self._saved_at != trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self._path, weights_only=False)
            self._saved_at = trainer.global_step
            self.best_model_path = str(self._path)

    def _tell_loggers(self, trainer: pl.Trainer) -> None:
        """Announce the checkpoint to the loggers that keep models, as Lightning does when it saves one."""
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)


def _require_readable_state(callback: pl.Callback) -> None:
    """Check, before hours of training, that a callback's state can be read back from a checkpoint.

    Raises:
        SettingError: if the state holds more than tensors and plain values.
    """
    content, state = io.BytesIO(), callback.state_dict()
    try:
        require_few(state)
        torch.save(state, content)
        content.seek(0)
        torch.load(content, weights_only=True)
    except Exception as error:  # pickle raises whatever the object raises
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = named[1] if named else one_line(error)[:200]
        remedy = f"what it keeps in checkpoints could not be read again ({what}); let it keep tensors, numbers and text"
        raise SettingError("callbacks", type(callback).__qualname__, remedy) from error


def validation_follows(trainer: pl.Trainer) -> bool:
    """Return whether Lightning validates after the meta-batch that it has just trained on."""
    if not trainer.enable_validation:
        return False
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    every = trainer.check_val_every_n_epoch
    if every is None:
        return bool(batches.total.ready % trainer.val_check_batch == 0)
    return (trainer.current_epoch + 1) % every == 0 and batches.current.ready % trainer.val_check_batch == 0


def _ends(trainer: pl.Trainer) -> bool:
    """Return whether the meta-batch that Lightning has just trained on is the last of the fit."""
    steps = 0 <= trainer.max_steps <= trainer.global_step
    epochs = trainer.is_last_batch and 0 <= (trainer.max_epochs or -1) <= trainer.current_epoch + 1
    enough = trainer.global_step >= (trainer.min_steps or 0) and trainer.current_epoch >= (trainer.min_epochs or 0)
    return steps or epochs or (trainer.should_stop and enough)
