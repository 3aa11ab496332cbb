"""Several processes that share every meta-batch, started from outside, as torchrun starts them."""

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.integration.command import _FORKS, TINY, environment
from tests.paths import ROOT

UPDATES = 20
SIZES = ("data.datamodule.batch_size=4", f"data.datamodule.batches.train={UPDATES}", "algorithm.num_inner_steps=2")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def torchrun_environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun says to a process on a single machine."""
    counts = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "GROUP_WORLD_SIZE": 1}
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "MASTER_PORT": port} | counts
    return {name: str(value) for name, value in numbers.items()} | {
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_RUN_ID": "test",
    }


def meta_trained(
    runs: Sequence[Sequence[str]], *, processes: int, folder: Path, precision: str, updates: int
) -> list[dict[str, dict[str, Any]]]:
    """For each of `runs`, which are overrides: the outer gradient of the first meta-update, the weights after
    `updates`, the seconds that each meta-update took, and how often gradients were exchanged."""
    import torch

    port = free_port()
    started = [
        _FORKS.Process(target=_meta_train, args=(runs, rank, processes, port, str(folder), precision, updates))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0] * processes
    return [torch.load(folder / f"{index}.pt", weights_only=True) for index in range(len(runs))]


def _meta_train(
    runs: Sequence[Sequence[str]], rank: int, processes: int, port: int, folder: str, precision: str, updates: int
) -> None:
    os.chdir(ROOT)
    os.environ.update(environment(**torchrun_environment(rank, processes, port)))
    import hydra
    import pytorch_lightning as pl
    import torch

    import lightning_maml.shell.command_line  # its resolvers
    from lightning_maml.inner_loops import auto_loop

    assert lightning_maml.shell.command_line
    auto_loop._now = lambda _: 0.0  # auto takes the same loop each time; others round differently
    torch.set_num_threads(1)
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for index, overrides in enumerate(runs):
            cfg = hydra.compose("default", [*TINY, *SIZES, *overrides])
            torch.manual_seed(0)
            datamodule = hydra.utils.instantiate(cfg.data.datamodule)
            network = hydra.utils.instantiate(
                cfg.model.torch_module, input_shape=datamodule.input_shape, num_outputs=datamodule.num_outputs
            )
            learner = hydra.utils.instantiate(cfg.algorithm.learner, network=network)
            algorithm = hydra.utils.instantiate(cfg.algorithm, learner=learner)
            witness = witness_of_training()
            trainer = pl.Trainer(
                accelerator="cpu",
                strategy="ddp" if processes > 1 else "auto",
                devices=processes if processes > 1 else 1,
                precision=precision,
                max_steps=updates,
                limit_val_batches=0,
                inference_mode=False,
                use_distributed_sampler=False,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=folder,
                callbacks=[witness],
            )
            trainer.fit(algorithm, datamodule=datamodule)
            if rank == 0:
                weights = {name: value.detach().clone() for name, value in learner.named_parameters()}
                found = {"gradient": witness.gradient, "weights": weights, "seconds": witness.seconds}
                found["exchanges"] = witness.exchanges
                torch.save(found, Path(folder, f"{index}.pt"))


def witness_of_training() -> Any:
    """The class is made here, so that importing this module does not import Lightning."""
    import pytorch_lightning as pl
    import torch
    from torch.distributed import GradBucket
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from torch.nn.parallel import DistributedDataParallel

    class Witness(pl.Callback):
        gradient: dict[str, Any]

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.exchanges = 0
            self._before: float | None = None

        def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            model = trainer.strategy.model
            if isinstance(model, DistributedDataParallel):
                model.register_comm_hook(None, self._exchange)

        def _exchange(self, state: None, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
            self.exchanges += 1
            return allreduce_hook(None, bucket)

        def on_train_batch_end(self, *args: Any) -> None:
            now = time.perf_counter()
            if self._before is not None:
                self.seconds.append(now - self._before)
            self._before = now

        def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any) -> None:
            if trainer.global_step == 0:
                self.gradient = {
                    name: parameter.grad.detach().clone()
                    for name, parameter in module.named_parameters()
                    if parameter.grad is not None
                }

    return Witness()
