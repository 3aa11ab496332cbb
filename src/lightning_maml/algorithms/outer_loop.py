"""The outer loop: meta-training, meta-validation and meta-test of any method, as a LightningModule."""

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_maml.episodes import Episodes
from lightning_maml.inner_loops import InnerLoop, Learner, Objective, Trajectory
from lightning_maml.settings import require_at_least


class NonFiniteLossError(ArithmeticError):
    """The outer loss or its gradient is no longer a number."""


class OuterLoop(pl.LightningModule):
    """Minimizes the outer objective over tasks: θ ← θ − β·U(∇_θ L(θ)), with any optimizer of `torch.optim`.

    The inner loop hands over the outer gradient g; the module calls `manual_backward` on Σ⟨θ, stop_gradient(g)⟩, so
    that Lightning sees one ordinary backward per meta-batch, whatever the inner loop does.

    Args:
        learner: what is learned and adapted.
        inner_loop: how it adapts, and how the outer gradient is computed.
        outer_optimizer: makes the optimizer from θ, e.g. `partial(torch.optim.Adam, lr=1e-3)`.
        lr_scheduler: makes a scheduler from the optimizer, stepped after every meta-update; None for none.
        objective: makes the outer objective from the number of inner steps (and takes `trace`).
        num_inner_steps: inner steps in meta-training.
        eval_inner_steps: inner steps in meta-validation and meta-test; None for as many as in meta-training.
        gradient_clip_val: largest 2-norm of the outer gradient; None for no clipping.
        accumulate: meta-batches whose mean gradient makes one meta-update.
        log_every_step: also log the query metrics of every inner step in meta-training.

    Raises:
        SettingError: if a number is out of its range.

    Metrics: `metatrain/…`, `metaval/…`, `metatest/…` with `inner_loss`, `inner_accuracy` (support, after adaptation),
    `outer_loss`, `outer_accuracy` (query, after adaptation); `pre_loss`, `pre_accuracy` (query, before) in evaluation.
    """

    def __init__(
        self,
        learner: Learner,
        inner_loop: InnerLoop,
        outer_optimizer: Callable[[Iterable[Tensor]], Optimizer],
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        objective: Callable[..., Objective] = Objective.final,
        num_inner_steps: int = 1,
        eval_inner_steps: int | None = None,
        gradient_clip_val: float | None = None,
        accumulate: int = 1,
        log_every_step: bool = False,
    ) -> None:
        super().__init__()
        require_at_least(1, algorithm__num_inner_steps=num_inner_steps, algorithm__accumulate=accumulate)
        if eval_inner_steps is not None:
            require_at_least(0, algorithm__eval_inner_steps=eval_inner_steps)
        if gradient_clip_val is not None:
            require_at_least(0.0, algorithm__gradient_clip_val=gradient_clip_val)
        self.automatic_optimization = False
        self.learner = learner
        self.inner_loop = inner_loop
        self.num_inner_steps = num_inner_steps
        self.eval_inner_steps = num_inner_steps if eval_inner_steps is None else eval_inner_steps
        self.objective = objective(num_inner_steps, trace=log_every_step)
        self.gradient_clip_val = gradient_clip_val
        self.accumulate = accumulate
        self.log_every_step = log_every_step
        self._outer_optimizer = outer_optimizer
        self._lr_scheduler = lr_scheduler
        self._accumulated = 0
        self._test_parts: list[Trajectory] = []

    @property
    def test_trajectory(self) -> Trajectory:
        """Every task of the last meta-test, in order."""
        return Trajectory.concatenate(self._test_parts)

    def configure_optimizers(self) -> Any:
        optimizer = self._outer_optimizer(self.learner.meta_parameters().values())
        if self._lr_scheduler is None:
            return optimizer
        return [optimizer], [self._lr_scheduler(optimizer)]

    def training_step(self, episodes: Episodes, batch_idx: int) -> None:
        trajectory, gradients = self.inner_loop(
            self.learner, episodes, steps=self.num_inner_steps, objective=self.objective
        )
        assert gradients is not None
        self.manual_backward(self._surrogate(gradients))
        self._accumulated += 1
        if self._accumulated == self.accumulate or self.trainer.is_last_batch:
            self._meta_update(trajectory)
        metrics = _summary(trajectory)
        if self.log_every_step:
            metrics |= _per_step(trajectory)
        self._log("metatrain", metrics, episodes, on_step=True)

    def validation_step(self, episodes: Episodes, batch_idx: int) -> None:
        trajectory, _ = self.inner_loop(self.learner, episodes, steps=self.eval_inner_steps)
        self._log("metaval", _summary(trajectory) | _before(trajectory), episodes, on_step=False)

    def on_test_epoch_start(self) -> None:
        self._test_parts = []

    def test_step(self, episodes: Episodes, batch_idx: int) -> None:
        trajectory, _ = self.inner_loop(self.learner, episodes, steps=self.eval_inner_steps)
        self._test_parts.append(trajectory)

    def on_test_epoch_end(self) -> None:
        trajectory = self.test_trajectory
        metrics = _summary(trajectory) | _before(trajectory) | _per_step(trajectory) | _intervals(trajectory)
        self.log_dict({f"metatest/{name}": value for name, value in metrics.items()})

    def _surrogate(self, gradients: dict[str, Tensor]) -> Tensor:
        """Σ⟨θ, g⟩ with g constant: its gradient is g."""
        meta = self.learner.meta_parameters()
        return torch.stack([(meta[name] * gradient).sum() for name, gradient in gradients.items()]).sum()

    def _meta_update(self, trajectory: Trajectory) -> None:
        optimizer: Any = self.optimizers()
        for parameter in self.learner.meta_parameters().values():
            if parameter.grad is not None and self._accumulated > 1:
                parameter.grad /= self._accumulated
        self._accumulated = 0
        limit = float("inf") if self.gradient_clip_val is None else self.gradient_clip_val
        norm = torch.nn.utils.clip_grad_norm_(self.learner.meta_parameters().values(), limit)
        # The one host synchronization of a meta-update. A NaN loss has a NaN gradient, so the norm tells of both.
        if not torch.isfinite(norm):
            loss = trajectory.query_loss[:, -1].mean()
            raise NonFiniteLossError(
                f"the outer loss is {loss:.4g} and its gradient's norm {norm:.4g} at meta-update {self.global_step}: "
                "training stopped before it reached the weights; lower optim.inner_optimizer.lr or "
                "optim.outer_optimizer.lr, or set algorithm.gradient_clip_val"
            )
        optimizer.step()
        optimizer.zero_grad()
        scheduler: Any = self.lr_schedulers()
        if scheduler is not None:
            scheduler.step()
        self.log("metatrain/gradient_norm", norm, on_step=True, on_epoch=False)
        self.log("metatrain/lr", optimizer.param_groups[0]["lr"], on_step=True, on_epoch=False)

    def _log(self, split: str, metrics: dict[str, Tensor], episodes: Episodes, *, on_step: bool) -> None:
        self.log_dict(
            # Lightning takes "step" for the loggers' x axis, where it would count meta-batches.
            {f"{split}/{name}": value for name, value in metrics.items()} | {"step": float(self.global_step)},
            on_step=on_step,
            on_epoch=not on_step,
            batch_size=episodes.num_tasks,
        )


def _summary(trajectory: Trajectory) -> dict[str, Tensor]:
    """Means over tasks: query after adaptation, and support at the last step at which it was computed."""
    metrics = {"outer_loss": trajectory.query_loss[:, -1].mean(), "inner_loss": _last_known(trajectory.support_loss)}
    if trajectory.query_accuracy is not None and trajectory.support_accuracy is not None:
        metrics["outer_accuracy"] = trajectory.query_accuracy[:, -1].mean()
        metrics["inner_accuracy"] = _last_known(trajectory.support_accuracy)
    return metrics


def _last_known(values: Tensor) -> Tensor:
    """The mean over tasks at the last inner step or, where training did not compute it, the one before."""
    if values.shape[1] == 1:
        return values[:, 0].mean()
    return torch.where(values[:, -1].isnan(), values[:, -2], values[:, -1]).mean()


def _before(trajectory: Trajectory) -> dict[str, Tensor]:
    """Means over tasks, query before adaptation."""
    metrics = {"pre_loss": trajectory.query_loss[:, 0].mean()}
    if trajectory.query_accuracy is not None:
        metrics["pre_accuracy"] = trajectory.query_accuracy[:, 0].mean()
    return metrics


def _per_step(trajectory: Trajectory) -> dict[str, Tensor]:
    """Means over tasks, query after each inner step."""
    metrics = {f"outer_loss/step_{k}": mean for k, mean in enumerate(trajectory.query_loss.mean(dim=0))}
    if trajectory.query_accuracy is not None:
        means = trajectory.query_accuracy.mean(dim=0)
        metrics |= {f"outer_accuracy/step_{k}": mean for k, mean in enumerate(means)}
    return metrics


def _intervals(trajectory: Trajectory) -> dict[str, Tensor]:
    """Half-widths of 95 % intervals over tasks, query after adaptation."""
    metrics = {"outer_loss_ci95": ci95(trajectory.query_loss)[-1]}
    if trajectory.query_accuracy is not None:
        metrics["outer_accuracy_ci95"] = ci95(trajectory.query_accuracy)[-1]
    return metrics


def ci95(values: Tensor) -> Tensor:
    """Half-width of the 95 % interval of the mean over tasks (dimension 0): 1.96·s/√n; NaN for a single task."""
    if values.shape[0] == 1:
        return torch.full_like(values[0], torch.nan)
    return 1.96 * values.std(dim=0) / values.shape[0] ** 0.5
