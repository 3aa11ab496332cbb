"""Meta-train and meta-test: python src/run.py data=omniglot algorithm.num_inner_steps=5

Every setting is in conf/; --help lists the choices, --cfg job prints what would run.
"""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightning_maml import command_line


@hydra.main(version_base="1.3", config_path="../conf", config_name="default")
def main(cfg: DictConfig) -> float | None:
    """One run. Returns the best value of the monitored metric, for sweepers to optimize."""
    # Imported here, because torch takes seconds and --help should not.
    import pytorch_lightning as pl

    from lightning_maml.algorithms import OuterLoop, check_checkpoint, check_trainer_settings
    from lightning_maml.callbacks import begin_logging, end_logging
    from lightning_maml.data import MetaDataModule

    check_trainer_settings(cfg.train.pl_trainer)
    pl.seed_everything(cfg.train.seed, workers=True, verbose=False)
    datamodule: MetaDataModule = hydra.utils.instantiate(cfg.data.datamodule)
    network = hydra.utils.instantiate(
        cfg.model.torch_module, input_shape=datamodule.input_shape, num_outputs=datamodule.num_outputs
    )
    learner = hydra.utils.instantiate(cfg.algorithm.learner, network=network)
    algorithm: OuterLoop = hydra.utils.instantiate(cfg.algorithm, learner=learner)
    ckpt_path = cfg.train.ckpt_path
    if ckpt_path is not None:
        check_checkpoint(ckpt_path, algorithm)

    checkpoint = hydra.utils.instantiate(cfg.train.checkpoint)
    callbacks = [hydra.utils.instantiate(node) for node in cfg.train.callbacks.values() if node is not None]
    if cfg.train.early_stopping.patience is not None:
        callbacks.append(hydra.utils.instantiate(cfg.train.early_stopping))
    loggers = [hydra.utils.instantiate(node) for node in cfg.logging.values() if node is not None]
    trainer: pl.Trainer = hydra.utils.instantiate(
        cfg.train.pl_trainer, logger=loggers, callbacks=[*callbacks, checkpoint]
    )
    best = None
    try:
        begin_logging(trainer, algorithm, OmegaConf.to_container(cfg, resolve=True))
        if cfg.train.fit:
            trainer.fit(algorithm, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
            best, ckpt_path = checkpoint.best_model_score, checkpoint.best_model_path or None
        if cfg.train.test:
            trainer.test(algorithm, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False, weights_only=True)
    finally:
        hydra_config = HydraConfig.get()
        end_logging(loggers, hydra_config.runtime.output_dir, list(hydra_config.overrides.task))
    return None if best is None else float(best)


if __name__ == "__main__":
    command_line.launch(main)
