"""Meta-train a learner on few-shot tasks and meta-test it: python src/run.py KEY=VALUE …"""

from functools import partial
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightning_maml.shell import command_line, redaction
from lightning_maml.sweeps import overrides_as_typed


@hydra.main(version_base="1.3", config_path="../conf", config_name="default")
@command_line.errors_in_one_line
def main(cfg: DictConfig) -> float | None:
    """One run. Returns the best value of the monitored metric, for sweepers to optimize."""
    # Imported here, because torch takes seconds and --help should not.
    from lightning_maml.callbacks import announce, begin_logging, conclude, end_logging
    from lightning_maml.data import MetaDataModule, headline
    from lightning_maml.few_shot import Recipe
    from lightning_maml.inner_loops.optimizers import rehearse
    from lightning_maml.models import normalize_by
    from lightning_maml.shell.configuration import check_settings
    from lightning_maml.training import (
        OuterLoop,
        check_adaptation,
        check_checkpoint,
        check_network,
        make_trainer,
        read_checkpoint,
    )

    # What can be checked without data comes first: nothing is downloaded or prepared for a run that cannot work.
    check_settings(cfg)
    ckpt_path = cfg.train.ckpt_path
    if ckpt_path is not None or not cfg.train.fit:
        read_checkpoint(ckpt_path)
    command_line.seed_everything(cfg.train.seed)
    command_line.set_matmul_precision(cfg.train.matmul_precision)
    callbacks = [hydra.utils.instantiate(node) for node in cfg.train.callbacks.values() if node is not None]
    if OmegaConf.select(cfg, "train.early_stopping.patience") is not None:
        callbacks.append(hydra.utils.instantiate(cfg.train.early_stopping))
    best, last = (hydra.utils.instantiate(cfg.train.checkpoint[name]) for name in ("best", "last"))
    loggers = [hydra.utils.instantiate(node) for node in cfg.logging.values() if node is not None]
    run = HydraConfig.get().runtime
    trainer = make_trainer(cfg.train.pl_trainer, run.output_dir, logger=loggers, callbacks=[*callbacks, best, last])
    command_line.require_processes_from_outside(trainer)
    around: partial[OuterLoop] = hydra.utils.instantiate(cfg.algorithm, learner=None, _partial_=True)
    rehearse(around.keywords["outer_optimizer"], around.keywords["lr_scheduler"], trainer.strategy.root_device)

    datamodule: MetaDataModule = hydra.utils.instantiate(cfg.data.datamodule)
    datamodule.require_divisible_by(trainer.world_size)
    built: dict[str, Any] = {"input_shape": datamodule.input_shape, "num_outputs": datamodule.num_outputs}
    network, example = hydra.utils.instantiate(cfg.model.torch_module, **built), datamodule.example("train")
    check_network(network, example.support_x[0], datamodule.num_outputs)
    batch_norm = normalize_by(network, cfg.model.batch_norm)
    learner = hydra.utils.instantiate(cfg.algorithm.learner, network=network)
    datamodule.require_tasks_for(any_ways=learner.any_ways)
    algorithm = around(learner=learner)
    check_adaptation(algorithm, example)
    config: Any = redaction.masked(OmegaConf.to_container(cfg, resolve=True))
    seen = {"data": run.choices["data"], "brightness": float(example.support_x.float().mean())}
    algorithm.recipe = Recipe.of(config, **built, **seen, batch_norm=batch_norm).plain()
    if ckpt_path is not None:
        check_checkpoint(ckpt_path, algorithm, trainer, trains=cfg.train.fit)
    choices, overrides = dict(run.choices), overrides_as_typed(HydraConfig.get())
    announce(trainer, algorithm, headline(datamodule), choices, run.output_dir, batch_norm)
    succeeded = False
    try:
        begin_logging(trainer, algorithm, config, choices=choices, overrides=overrides)
        if cfg.train.fit:
            trainer.fit(algorithm, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
            ckpt_path = best.best_model_path or None
        if cfg.train.test:
            trainer.test(algorithm, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False, weights_only=True)
        succeeded = True
    finally:
        end_logging(loggers, succeeded=succeeded)
        conclude(run.output_dir, overrides, best.best_model_path)
    return None if best.best_model_score is None else float(best.best_model_score)


if __name__ == "__main__":
    command_line.launch(main)
