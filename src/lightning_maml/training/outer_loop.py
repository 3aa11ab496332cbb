"""The outer loop: meta-training, meta-validation and meta-test of any method, as a LightningModule."""

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_maml.algorithms.objectives import FinalLoss, ObjectiveSchedule
from lightning_maml.arguments import Count, Natural, Positive, checked
from lightning_maml.episodes import Episodes
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import InnerLoop, Learner, Objective, Trajectory
from lightning_maml.training import metrics as metrics_of
from lightning_maml.training.accumulation import Accumulation
from lightning_maml.training.health import InnerLossWatch, first_failure, skip
from lightning_maml.training.optimizers import check_optimizers, make_optimizer, make_scheduler, step_scheduler
from lightning_maml.training.own_files import forget_paths
from lightning_maml.training.ranks import mean_of_ranks, of_all_ranks
from lightning_maml.training.trainer import check_interval, check_trainer_settings

log = logging.getLogger(__name__)


class OuterLoop(pl.LightningModule):
    """Minimizes the outer objective over tasks: θ ← θ − β·U(∇_θ L(θ)), with any optimizer of `torch.optim`.

    The inner loop hands over the outer gradient g; the module calls `manual_backward` on Σ⟨θ, stop_gradient(g)⟩, so
    that Lightning sees one ordinary backward per meta-update, whatever the inner loop does, and processes that share
    the tasks exchange gradients once. Metrics are over the tasks of all processes.

    Args:
        learner: what is learned and adapted.
        inner_loop: how it adapts, and how the outer gradient is computed.
        outer_optimizer: makes the optimizer from θ, e.g. `partial(torch.optim.Adam, lr=1e-3)`.
        lr_scheduler: makes a scheduler from the optimizer, stepped after every meta-update; None for none.
        objective: the outer objective, which may change as training goes on; None for the final loss, MAML's.
        num_inner_steps: inner steps in meta-training; 0 for methods that do not adapt by gradient.
        eval_inner_steps: inner steps in meta-validation and meta-test; None for as many as in meta-training.
        gradient_clip_val: largest 2-norm of the outer gradient; None for no clipping.
        accumulate: meta-batches whose mean gradient makes one meta-update.
        log_every_step: also log the query metrics of every inner step in meta-training.
        max_skipped: meta-updates that may be left out because their gradient is not finite; one more ends the fit.

    Raises:
        SettingError: if a number is out of its range.

    Metrics: `metatrain/…`, `metaval/…`, `metatest/…` with `inner_loss`, `inner_accuracy` (support, after adaptation),
    `outer_loss`, `outer_accuracy` (query, after adaptation); `pre_loss`, `pre_accuracy` (query, before) in evaluation.
    Meta-training has the support set's before the last of K inner steps, as `inner_loss/step_{K−1}`.
    """

    @checked
    def __init__(
        self,
        learner: Learner,
        inner_loop: InnerLoop,
        outer_optimizer: Callable[[Iterable[Tensor]], Optimizer],
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        objective: ObjectiveSchedule | None = None,
        num_inner_steps: Natural = 1,
        eval_inner_steps: Natural | None = None,
        gradient_clip_val: Positive | None = None,
        accumulate: Count = 1,
        log_every_step: bool = False,
        max_skipped: Natural = 0,
    ) -> None:
        super().__init__()
        for name, steps in (("num_inner_steps", num_inner_steps), ("eval_inner_steps", eval_inner_steps)):
            if steps and not learner.adapts_by_gradient:
                raise SettingError(name, steps, "this method does not adapt by gradient; give 0")
        self.automatic_optimization = False
        self.learner = learner
        self.inner_loop = inner_loop
        self.num_inner_steps = num_inner_steps
        self.eval_inner_steps = num_inner_steps if eval_inner_steps is None else eval_inner_steps
        self.objective: ObjectiveSchedule = FinalLoss() if objective is None else objective
        self.gradient_clip_val = gradient_clip_val
        self.accumulate = accumulate
        self.log_every_step = log_every_step
        self.max_skipped = max_skipped
        self._outer_optimizer = outer_optimizer
        self._lr_scheduler = lr_scheduler
        self._accumulation = Accumulation()
        self._skipped = 0
        self._inner_losses = InnerLossWatch(learner)
        self._test_parts: list[Trajectory] = []
        self.recipe: dict[str, Any] | None = None
        self._tested_step: int | None = None  # of the checkpoint that is evaluated

    @property
    def test_trajectory(self) -> Trajectory:
        """Return every task of the last meta-test, in order."""
        if len(self._test_parts) > 1:
            self._test_parts = [Trajectory.concatenate(self._test_parts)]
        return self._test_parts[0]

    def optimizer_of(self, parameters: Iterable[Tensor]) -> tuple[Optimizer, LRScheduler | None]:
        """Return the outer optimizer of these parameters, and the schedule of its step size."""
        optimizer = make_optimizer(self._outer_optimizer, parameters)
        return optimizer, None if self._lr_scheduler is None else make_scheduler(self._lr_scheduler, optimizer)

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = self.optimizer_of(self.learner.meta_parameters().values())
        return optimizer if scheduler is None else ([optimizer], [scheduler])

    def setup(self, stage: str) -> None:
        """Check now what the Trainer would stumble over after meta-training.

        Raises:
            SettingError: for a Trainer that meta-learning cannot use, such as one without `inference_mode=False`.
        """
        told = {name: getattr(self.trainer, name) for name in ("precision", "overfit_batches")}
        check_trainer_settings(told | {"inference_mode": self.trainer.test_loop.inference_mode})
        parts = {"outer_optimizer": self._outer_optimizer, "lr_scheduler": self._lr_scheduler}
        check_optimizers(parts, self.trainer.strategy.root_device)

    def training_step(self, episodes: Episodes, batch_idx: int) -> None:
        trajectory, gradients = self.inner_loop(
            self.learner, episodes, steps=self.num_inner_steps, objective=self._outer_objective()
        )
        assert gradients is not None
        self._accumulation.add(batch_idx, episodes, trajectory, gradients)
        if len(self._accumulation) == self.accumulate or self.trainer.is_last_batch:
            self._meta_update()

    def validation_step(self, episodes: Episodes, batch_idx: int) -> None:
        trajectory, _ = self.inner_loop(self.learner, episodes, steps=self.eval_inner_steps)
        metrics: dict[str, Any] = {
            f"metaval/{name}": value
            for name, value in (metrics_of.summary(trajectory) | metrics_of.before(trajectory)).items()
        }
        self.log_dict(metrics | self._step, on_step=False, on_epoch=True, batch_size=episodes.num_tasks, sync_dist=True)
        self._inner_losses.see(trajectory, gaps=False)

    def on_validation_epoch_end(self) -> None:
        self._inner_losses.tell("validation")

    def on_test_epoch_start(self) -> None:
        self._test_parts = []

    def test_step(self, episodes: Episodes, batch_idx: int) -> None:
        trajectory, _ = self.inner_loop(self.learner, episodes, steps=self.eval_inner_steps)
        self._test_parts.append(trajectory)

    def on_test_epoch_end(self) -> None:
        self._test_parts = [of_all_ranks(self.trainer, self.test_trajectory)]
        trajectory = self.test_trajectory
        parts = (metrics_of.summary, metrics_of.before, metrics_of.per_step, metrics_of.intervals)
        metrics: dict[str, Any] = {
            f"metatest/{name}": value for part in parts for name, value in part(trajectory).items()
        }
        self.log_dict(metrics | self._step, sync_dist=True)
        self._tested_step = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the outer optimizer's name, what the inner loop has chosen, what it takes to build the learner again
        (`recipe`, plain values) and, between the meta-batches of one meta-update, the gradient so far."""
        checkpoint["recipe"] = self.recipe
        checkpoint["skipped"] = self._skipped
        checkpoint["outer_optimizer"] = type(self.trainer.optimizers[0]).__qualname__
        for name, part in (("inner_loop", self.inner_loop), ("objective", self.objective)):
            if hasattr(part, "state_dict"):
                checkpoint[name] = part.state_dict()
        if self._accumulation:
            checkpoint["accumulated"] = self._accumulation.state_dict(self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        forget_paths(checkpoint, self.trainer.callbacks)  # type: ignore[attr-defined]
        # Lightning converts the module after it has loaded the weights, which a float32 one would round.
        self.trainer.precision_plugin.convert_module(self)
        self._skipped = checkpoint.get("skipped", 0)
        fits = self.trainer.state.fn == "fit"
        self._tested_step = None if fits else checkpoint.get("global_step")
        self._accumulation.load_state_dict(checkpoint.get("accumulated", {}) if fits else {})
        for name, part in (("inner_loop", self.inner_loop), ("objective", self.objective)):
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(checkpoint.get(name, {}))

    def on_train_start(self) -> None:
        """Bring what a checkpoint held of an unfinished meta-update to where it goes on."""
        check_interval(self.trainer, self.accumulate)
        self._accumulation.resume(self, self.learner.meta_parameters())

    @property
    def _step(self) -> dict[str, Any]:
        """Return the "step" that Lightning takes for the loggers' x axis, where it would count meta-batches."""
        return {"step": float(self.global_step if self._tested_step is None else self._tested_step)}

    def _outer_objective(self) -> Objective:
        return self.objective(self.num_inner_steps, self.global_step, trace=self.log_every_step)

    def _surrogate(self, gradients: dict[str, Tensor]) -> Tensor:
        """Return Σ⟨θ, g⟩ with g constant: its gradient is g."""
        meta = self.learner.meta_parameters()
        return torch.stack([(meta[name] * gradient).sum() for name, gradient in gradients.items()]).sum()

    def _meta_update(self) -> None:
        optimizer: Any = self.optimizers()
        gradients, trajectory, batches = self._accumulation.take()
        self.manual_backward(self._surrogate(gradients))
        limit = float("inf") if self.gradient_clip_val is None else self.gradient_clip_val
        norm = torch.nn.utils.clip_grad_norm_(self.learner.meta_parameters().values(), limit)
        # The one host synchronization of a meta-update. A NaN loss has a NaN gradient, so the norm tells of both.
        if not torch.isfinite(norm):
            where = first_failure(self.learner, self.inner_loop, batches, self.num_inner_steps, self._outer_objective())
            loss = trajectory.query_loss[:, -1].mean()
            self._skipped = skip(self._skipped, self.max_skipped, self.global_step, loss, norm, where)
            optimizer.zero_grad()
            return
        used = float(optimizer.param_groups[0]["lr"])
        optimizer.step()
        optimizer.zero_grad()
        self.learner.after_update()
        scheduler: Any = self.lr_schedulers()
        if scheduler is not None:
            step_scheduler(scheduler)
        metrics = metrics_of.of_training(trajectory)
        if self.log_every_step:
            metrics |= metrics_of.per_step(trajectory)
        metrics = mean_of_ranks(self.trainer, metrics)
        metrics["gradient_norm"] = norm
        if self.max_skipped:
            metrics["skipped"] = torch.tensor(float(self._skipped))
        metrics["lr"] = torch.tensor(used)
        self._log_training({f"metatrain/{name}": value for name, value in metrics.items()}, trajectory)

    def _log_training(self, metrics: dict[str, Tensor], trajectory: Trajectory) -> None:
        """Hand metrics to the loggers now: Lightning would do so after this step's checkpoint is written, so that a run
        resumed from it had a gap."""
        self.log_dict(metrics, logger=False)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self.global_step % every == 0:
            values = dict(zip(metrics, metrics_of.numbers(metrics.values()), strict=True))
            known = {name: value for name, value in values.items() if not math.isnan(value)}
            self._inner_losses.see(trajectory, gaps=True)
            self._inner_losses.tell("training")
            for logger in self.loggers:
                logger.log_metrics(known, self.global_step)
