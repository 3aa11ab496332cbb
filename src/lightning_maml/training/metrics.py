"""What is reported of a trajectory: metrics by name, means over its tasks."""

from collections.abc import Iterable

import torch
from scipy.special import stdtrit
from torch import Tensor

from lightning_maml.episodes import copy_to
from lightning_maml.inner_loops import Trajectory


def summary(trajectory: Trajectory) -> dict[str, Tensor]:
    """Return means over tasks after adaptation: outer of the query set, inner of the support set."""
    metrics = {"outer_loss": trajectory.query_loss[:, -1].mean(), "inner_loss": trajectory.support_loss[:, -1].mean()}
    if trajectory.query_accuracy is not None and trajectory.support_accuracy is not None:
        metrics["outer_accuracy"] = trajectory.query_accuracy[:, -1].mean()
        metrics["inner_accuracy"] = trajectory.support_accuracy[:, -1].mean()
    return metrics


def of_training(trajectory: Trajectory) -> dict[str, Tensor]:
    """Return the same, and that of the support set before the last of K inner steps, `inner_loss/step_{K−1}`: training
    makes no forward pass on it at φ_K that its objective does not weigh, and what it has not computed is NaN."""
    metrics, before_last = summary(trajectory), trajectory.query_loss.shape[1] - 2
    for name, values in (("loss", trajectory.support_loss), ("accuracy", trajectory.support_accuracy)):
        if values is not None and before_last >= 0:
            metrics[f"inner_{name}/step_{before_last}"] = values[:, before_last].mean()
    return metrics


def numbers(values: Iterable[Tensor]) -> list[float]:
    """Return scalars of whatever device as numbers, with one wait for all of them."""
    values = list(values)
    device = next((value.device for value in values if value.device.type != "cpu"), torch.device("cpu"))
    found: list[float] = torch.stack([copy_to(value.detach(), device) for value in values]).tolist()
    return found


def before(trajectory: Trajectory) -> dict[str, Tensor]:
    """Return means over tasks, query before adaptation."""
    metrics = {"pre_loss": trajectory.query_loss[:, 0].mean()}
    if trajectory.query_accuracy is not None:
        metrics["pre_accuracy"] = trajectory.query_accuracy[:, 0].mean()
    return metrics


def validated() -> list[str]:
    """Return the names under which a validation's metrics are logged; accuracies only of classification."""
    nothing = Trajectory(*[torch.zeros(1, 1)] * 4)
    return [f"metaval/{name}" for name in summary(nothing) | before(nothing)]


def per_step(trajectory: Trajectory) -> dict[str, Tensor]:
    """Return means over tasks, query after each inner step."""
    metrics = {f"outer_loss/step_{k}": mean for k, mean in enumerate(trajectory.query_loss.mean(dim=0))}
    if trajectory.query_accuracy is not None:
        means = trajectory.query_accuracy.mean(dim=0)
        metrics |= {f"outer_accuracy/step_{k}": mean for k, mean in enumerate(means)}
    return metrics


def intervals(trajectory: Trajectory) -> dict[str, Tensor]:
    """Return half-widths of 95 % intervals over tasks: of the query set after adaptation and after each inner step."""
    metrics = {}
    for name, values in (("outer_loss", trajectory.query_loss), ("outer_accuracy", trajectory.query_accuracy)):
        if values is not None:
            halves = ci95(values)
            metrics[f"{name}_ci95"] = halves[-1]
            metrics |= {f"{name}_ci95/step_{k}": half for k, half in enumerate(halves)}
    return metrics


def ci95(values: Tensor) -> Tensor:
    """Return the half-width of the 95 % interval of the mean over tasks (dimension 0): t·s/√n, with Student's t of n −
    1 degrees of freedom; NaN for a single task."""
    number = values.shape[0]
    if number == 1:
        return torch.full_like(values[0], torch.nan)
    return float(stdtrit(number - 1, 0.975)) * values.std(dim=0) / number**0.5
