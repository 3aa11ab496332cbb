"""The checkpoints that a run keeps."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint


class Checkpoints(ModelCheckpoint):
    """`best.ckpt` by the monitored metric and `last.ckpt`, after every validation; nothing in a dry run.

    Args:
        those of Lightning's `ModelCheckpoint`.
    """

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super().on_train_end(trainer, pl_module)
