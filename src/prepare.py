"""Download, convert and cache a dataset without training, for nodes without a network: python src/prepare.py data=cub

Takes the settings of run.py that concern the data, and prints what is there. One task of each split is drawn in
`samples.png`, in the run's folder (`pictures.format`). With refresh=true, every sample in the cache is made anew.
"""

import logging

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_maml.shell import command_line

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="../conf", config_name="prepare")
@command_line.errors_in_one_line
def main(cfg: DictConfig) -> None:
    """Prepare one dataset."""
    from pathlib import Path  # with what follows, because torch takes seconds and --help should not

    from lightning_maml.data import MetaDataModule, draw_samples, summary
    from lightning_maml.shell.configuration import build, check_settings

    check_settings(cfg, group="data")
    anew = {"refresh": cfg.refresh} if cfg.refresh else {}
    datamodule: MetaDataModule = build(cfg.data.datamodule, **anew)
    datamodule.setup()
    log.info("\n%s", summary(datamodule))
    path = Path(HydraConfig.get().runtime.output_dir) / f"samples.{cfg.pictures.format}"
    draw_samples(datamodule, path)
    log.info("one task of each split: %s", path)


if __name__ == "__main__":
    command_line.launch(main)
