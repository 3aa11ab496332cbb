"""The outer loop: meta-training, meta-validation and meta-test of any method, as a LightningModule."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_maml.algorithms.objectives import FinalLoss, ObjectiveSchedule
from lightning_maml.episodes import Episodes
from lightning_maml.inner_loops import InnerLoop, Learner, Trajectory
from lightning_maml.settings import NonFiniteLossError, SettingError, require_at_least


class OuterLoop(pl.LightningModule):
    """Minimizes the outer objective over tasks: θ ← θ − β·U(∇_θ L(θ)), with any optimizer of `torch.optim`.

    The inner loop hands over the outer gradient g; the module calls `manual_backward` on Σ⟨θ, stop_gradient(g)⟩, so
    that Lightning sees one ordinary backward per meta-batch, whatever the inner loop does.

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
        objective: ObjectiveSchedule | None = None,
        num_inner_steps: int = 1,
        eval_inner_steps: int | None = None,
        gradient_clip_val: float | None = None,
        accumulate: int = 1,
        log_every_step: bool = False,
    ) -> None:
        super().__init__()
        require_at_least(0, algorithm__num_inner_steps=num_inner_steps)
        require_at_least(1, algorithm__accumulate=accumulate)
        for name, steps in (("num_inner_steps", num_inner_steps), ("eval_inner_steps", eval_inner_steps)):
            if steps and not learner.adapts_by_gradient:
                raise SettingError(f"algorithm.{name}", steps, "this method does not adapt by gradient; give 0")
        if eval_inner_steps is not None:
            require_at_least(0, algorithm__eval_inner_steps=eval_inner_steps)
        if gradient_clip_val is not None and not gradient_clip_val > 0:
            raise SettingError("algorithm.gradient_clip_val", gradient_clip_val, "give a positive norm, or null")
        self.automatic_optimization = False
        self.learner = learner
        self.inner_loop = inner_loop
        self.num_inner_steps = num_inner_steps
        self.eval_inner_steps = num_inner_steps if eval_inner_steps is None else eval_inner_steps
        self.objective: ObjectiveSchedule = FinalLoss() if objective is None else objective
        self.gradient_clip_val = gradient_clip_val
        self.accumulate = accumulate
        self.log_every_step = log_every_step
        self._outer_optimizer = outer_optimizer
        self._lr_scheduler = lr_scheduler
        self._accumulated: list[Trajectory] = []
        self._test_parts: list[Trajectory] = []
        self._resumed: dict[str, Any] | None = None
        self.recipe: dict[str, Any] | None = None

    @property
    def test_trajectory(self) -> Trajectory:
        """Every task of the last meta-test, in order."""
        return Trajectory.concatenate(self._test_parts)

    def configure_optimizers(self) -> Any:
        try:
            optimizer = self._outer_optimizer(self.learner.meta_parameters().values())
        except ValueError as error:
            raise SettingError("optim.outer_optimizer", self._outer_optimizer, f"{error}; change it") from error
        if self._lr_scheduler is None:
            return optimizer
        return [optimizer], [self._lr_scheduler(optimizer)]

    def training_step(self, episodes: Episodes, batch_idx: int) -> None:
        steps = self.num_inner_steps
        objective = self.objective(steps, self.global_step, trace=self.log_every_step)
        trajectory, gradients = self.inner_loop(self.learner, episodes, steps=steps, objective=objective)
        assert gradients is not None
        self.manual_backward(self._surrogate(gradients))
        self._accumulated.append(trajectory)
        if len(self._accumulated) == self.accumulate or self.trainer.is_last_batch:
            self._meta_update()

    def validation_step(self, episodes: Episodes, batch_idx: int) -> None:
        trajectory, _ = self.inner_loop(self.learner, episodes, steps=self.eval_inner_steps)
        metrics: dict[str, Any] = {
            f"metaval/{name}": value for name, value in (_summary(trajectory) | _before(trajectory)).items()
        }
        self.log_dict(metrics | self._step, on_step=False, on_epoch=True, batch_size=episodes.num_tasks)

    def on_test_epoch_start(self) -> None:
        self._test_parts = []

    def test_step(self, episodes: Episodes, batch_idx: int) -> None:
        trajectory, _ = self.inner_loop(self.learner, episodes, steps=self.eval_inner_steps)
        self._test_parts.append(trajectory)

    def on_test_epoch_end(self) -> None:
        trajectory = self.test_trajectory
        metrics: dict[str, Any] = (
            _summary(trajectory) | _before(trajectory) | _per_step(trajectory) | _intervals(trajectory)
        )
        self.log_dict({f"metatest/{name}": value for name, value in metrics.items()} | self._step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the inner loop has chosen, what it takes to build the learner again (`recipe`, plain values) and,
        between the meta-batches of one meta-update, the gradient so far."""
        checkpoint["recipe"] = self.recipe
        if hasattr(self.inner_loop, "state_dict"):
            checkpoint["inner_loop"] = self.inner_loop.state_dict()
        if self._accumulated:
            gradients = {name: p.grad for name, p in self.learner.meta_parameters().items() if p.grad is not None}
            checkpoint["accumulated"] = {
                "gradients": gradients,
                "trajectories": [tuple(trajectory) for trajectory in self._accumulated],
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._resumed = checkpoint.get("accumulated")
        if hasattr(self.inner_loop, "load_state_dict"):
            self.inner_loop.load_state_dict(checkpoint.get("inner_loop", {}))

    def on_validation_model_zero_grad(self) -> None:
        """Keep the gradient of a meta-update that a validation interrupts."""
        if not self._accumulated:
            super().on_validation_model_zero_grad()

    def on_train_start(self) -> None:
        if self._resumed is not None:
            for name, gradient in self._resumed["gradients"].items():
                parameter = self.learner.meta_parameters()[name]
                parameter.grad = gradient.to(parameter)
            self._accumulated = [
                Trajectory(*(None if value is None else value.to(self.device) for value in fields))  # type: ignore[arg-type]
                for fields in self._resumed["trajectories"]
            ]
            self._resumed = None

    @property
    def _step(self) -> dict[str, Any]:
        """Lightning takes "step" for the loggers' x axis, where it would count meta-batches."""
        return {"step": float(self.global_step)}

    def _surrogate(self, gradients: dict[str, Tensor]) -> Tensor:
        """Σ⟨θ, g⟩ with g constant: its gradient is g."""
        meta = self.learner.meta_parameters()
        return torch.stack([(meta[name] * gradient).sum() for name, gradient in gradients.items()]).sum()

    def _meta_update(self) -> None:
        optimizer: Any = self.optimizers()
        trajectory = Trajectory.concatenate(self._accumulated)
        for parameter in self.learner.meta_parameters().values():
            if parameter.grad is not None and len(self._accumulated) > 1:
                parameter.grad /= len(self._accumulated)
        self._accumulated = []
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
        metrics = _of_training(trajectory) | {"gradient_norm": norm}
        if self.log_every_step:
            metrics |= _per_step(trajectory)
        metrics["lr"] = torch.tensor(optimizer.param_groups[0]["lr"])
        self._log_training({f"metatrain/{name}": value for name, value in metrics.items()})

    def _log_training(self, metrics: dict[str, Tensor]) -> None:
        """Hand metrics to the loggers now: Lightning would do so after this step's checkpoint is written, so that a run
        resumed from it had a gap."""
        self.log_dict(metrics, logger=False)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self.global_step % every == 0:
            values = {name: value.item() for name, value in metrics.items()}
            known = {name: value for name, value in values.items() if not math.isnan(value)}
            for logger in self.loggers:
                logger.log_metrics(known, self.global_step)


def _summary(trajectory: Trajectory) -> dict[str, Tensor]:
    """Means over tasks after adaptation: outer of the query set, inner of the support set."""
    metrics = {"outer_loss": trajectory.query_loss[:, -1].mean(), "inner_loss": trajectory.support_loss[:, -1].mean()}
    if trajectory.query_accuracy is not None and trajectory.support_accuracy is not None:
        metrics["outer_accuracy"] = trajectory.query_accuracy[:, -1].mean()
        metrics["inner_accuracy"] = trajectory.support_accuracy[:, -1].mean()
    return metrics


def _of_training(trajectory: Trajectory) -> dict[str, Tensor]:
    """The same; where training made no forward pass on the support set at φ_K, that at φ_{K−1}; NaN if it made none."""
    last = _summary(trajectory)
    if trajectory.query_loss.shape[1] == 1:
        return last
    before = _summary(Trajectory(*(None if values is None else values[:, -2:-1] for values in trajectory)))  # type: ignore[arg-type]
    inner = {name: torch.where(last[name].isnan(), before[name], last[name]) for name in last if "inner" in name}
    return last | inner


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
    """Half-widths of 95 % intervals over tasks: of the query set after adaptation and after each inner step."""
    metrics = {}
    for name, values in (("outer_loss", trajectory.query_loss), ("outer_accuracy", trajectory.query_accuracy)):
        if values is not None:
            halves = ci95(values)
            metrics[f"{name}_ci95"] = halves[-1]
            metrics |= {f"{name}_ci95/step_{k}": half for k, half in enumerate(halves)}
    return metrics


def ci95(values: Tensor) -> Tensor:
    """Half-width of the 95 % interval of the mean over tasks (dimension 0): 1.96·s/√n; NaN for a single task."""
    if values.shape[0] == 1:
        return torch.full_like(values[0], torch.nan)
    return 1.96 * values.std(dim=0) / values.shape[0] ** 0.5
