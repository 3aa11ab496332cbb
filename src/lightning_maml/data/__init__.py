"""From YAML to torchmeta datasets to `Episodes`."""

from lightning_maml.data.datamodule import MetaDataModule
from lightning_maml.data.glyphs import Glyphs

__all__ = ["Glyphs", "MetaDataModule"]
