"""What is left when a run is interrupted."""

import logging
from pathlib import Path

import pytorch_lightning as pl

log = logging.getLogger(__name__)


class Interruption(pl.Callback):
    """On Ctrl-C in meta-training, saves `checkpoints/last.ckpt`.

    Args:
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: str) -> None:
        self._last = Path(run_dir) / "checkpoints" / "last.ckpt"

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        trained = trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.global_step > 0
        if isinstance(exception, KeyboardInterrupt) and trained and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self._last)
            log.info("interrupted at meta-update %s; saved %s", trainer.global_step, self._last)
