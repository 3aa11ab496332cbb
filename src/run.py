"""Meta-train a learner on few-shot tasks and meta-test it: python src/run.py KEY=VALUE …"""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_maml.shell import command_line, sweeps


@hydra.main(version_base="1.3", config_path="../conf", config_name="default")
@command_line.errors_in_one_line
def main(cfg: DictConfig) -> float | None:
    """Run once; return the best value of the monitored metric, for sweepers to optimize."""
    # Imported here, because torch takes seconds and --help should not.
    from lightning_maml import training
    from lightning_maml.data import headline
    from lightning_maml.few_shot import Recipe
    from lightning_maml.reports import announce, logged
    from lightning_maml.shell.configuration import build, build_each, check_settings
    from lightning_maml.shell.recording import recorded

    check_settings(cfg)  # before anything is downloaded or prepared for a run that cannot work
    ckpt_path, run = cfg.train.ckpt_path, HydraConfig.get().runtime
    if ckpt_path is not None or not cfg.train.fit:
        training.read_checkpoint(ckpt_path)
    command_line.seed_everything(cfg.train.seed, cfg.train.matmul_precision)
    best, last = build_each(cfg.train.checkpoint.best, cfg.train.checkpoint.last)
    callbacks = [*build_each(*cfg.train.callbacks.values(), cfg.train.early_stopping), best, last]
    loggers = build_each(*cfg.logging.values())
    trainer = training.make_trainer(cfg.train.pl_trainer, run.output_dir, logger=loggers, callbacks=callbacks)
    sweeps.require_processes_from_outside(trainer)
    make_algorithm = build(cfg.algorithm, learner=None, _partial_=True)
    training.check_optimizers(make_algorithm.keywords, trainer.strategy.root_device)

    datamodule = build(cfg.data.datamodule)
    datamodule.require_divisible_by(trainer.world_size)
    example, num_outputs = datamodule.example("train"), datamodule.num_outputs
    network = build(cfg.model.torch_module, input_shape=datamodule.input_shape, num_outputs=num_outputs)
    batch_norm = training.prepare_network(network, example, num_outputs, cfg.model.batch_norm)
    learner = build(cfg.algorithm.learner, network=network)
    datamodule.require_tasks_for(any_ways=learner.any_ways)
    algorithm = make_algorithm(learner=learner)
    training.check_adaptation(algorithm, example)
    config = recorded(cfg)
    algorithm.recipe = Recipe.of(config, example, num_outputs, run.choices["data"], batch_norm).plain()
    if ckpt_path is not None:
        training.check_checkpoint(ckpt_path, algorithm, trainer, trains=cfg.train.fit)

    announce(trainer, algorithm, headline(datamodule), run.choices, run.output_dir, batch_norm)
    with logged(trainer, algorithm, config, HydraConfig.get(), best):
        if cfg.train.fit:
            trainer.fit(algorithm, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
            ckpt_path = best.best_model_path or None
        if cfg.train.test:
            trainer.test(algorithm, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False, weights_only=True)
    return None if best.best_model_score is None else float(best.best_model_score)


if __name__ == "__main__":
    command_line.launch(main)
