"""One inner step, and an inner loop made of them, for one task or many."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_maml.inner_loops.chunk import Chunk, of_split
from lightning_maml.inner_loops.contracts import Learner, Objective, Parameters, TaskRecord
from lightning_maml.inner_loops.sgd import Descent, FunctionalSGD


@dataclass(frozen=True)
class Adaptation:
    """How a learner adapts: what is the same at every step.

    Attributes:
        learner: whose step sizes are taken.
        sgd: the update rule.
        objective: which losses count, and whether inner gradients are constants.
        steps: K.
    """

    learner: Learner
    sgd: FunctionalSGD
    objective: Objective
    steps: int

    def advance(
        self, meta: Parameters, chunk: Chunk, at: Descent, step: int, record: TaskRecord | None, *, differentiable: bool
    ) -> tuple[Descent, Tensor | None]:
        """φ_{k+1} from φ_k, and what the objective has of step k, summed over tasks; None if it has nothing of it.

        Without a record, only φ_{k+1} is computed. At k = K there is no further φ.
        """
        parts: list[Tensor] = []
        for split, weights in (("support", self.objective.support), ("query", self.objective.query)):
            weight = weights.get(step, 0.0) if record is not None else 0.0
            adapts = split == "support" and step < self.steps
            if not (weight or adapts or (self.objective.trace and record is not None)):
                continue
            with torch.set_grad_enabled(bool(weight) or adapts):
                losses, outputs = chunk.losses(meta, at.adapted, split, step)
            if record is not None:
                record.add(split, step, losses, outputs, of_split(chunk.data, split)[1])
            if weight:
                parts.append(weight * losses.sum())
            if adapts:
                inner = losses.sum()
        if step < self.steps:
            second_order = differentiable and not self.objective.first_order
            values = torch.autograd.grad(
                inner,
                list(at.adapted.values()),
                create_graph=second_order,
                retain_graph=differentiable,
                allow_unused=True,
            )
            gradients = dict(zip(at.adapted, values, strict=True))
            at = self.sgd.step(at, gradients, self.learner.step_size(meta, step))
        return at, torch.stack(parts).sum() if parts else None


def unroll(adaptation: Adaptation, meta: Parameters, chunk: Chunk, record: TaskRecord) -> Tensor:
    """The objective, summed over the chunk's tasks, as a differentiable function of `meta`."""
    chunk = chunk.having(chunk.encode(meta))
    at = Descent(chunk.start(meta), {})
    parts = []
    for step in range(adaptation.steps + 1):
        at, part = adaptation.advance(meta, chunk, at, step, record, differentiable=True)
        parts += [] if part is None else [part]
    return torch.stack(parts).sum()


def adapt(adaptation: Adaptation, meta: Parameters, chunk: Chunk, record: TaskRecord | None) -> dict[str, Tensor]:
    """φ_K without an outer graph; with a record, support and query at every step are recorded."""
    meta = {name: parameter.detach() for name, parameter in meta.items()}
    chunk = chunk.having(chunk.encode(meta))
    at = Descent(chunk.start(meta), {})
    for step in range(adaptation.steps + 1):
        at = Descent({name: value.detach().requires_grad_() for name, value in at.adapted.items()}, at.momentum)
        if record is not None:
            with torch.no_grad():
                losses, outputs = chunk.losses(meta, at.adapted, "query", step)
                record.add("query", step, losses, outputs, chunk.data.query_y)
        elif step == adaptation.steps:
            break
        with torch.set_grad_enabled(step < adaptation.steps):
            losses, outputs = chunk.losses(meta, at.adapted, "support", step)
        if record is not None:
            record.add("support", step, losses, outputs, chunk.data.support_y)
        if step < adaptation.steps:
            values = torch.autograd.grad(losses.sum(), list(at.adapted.values()), allow_unused=True)
            with torch.no_grad():
                at = adaptation.sgd.step(
                    at, dict(zip(at.adapted, values, strict=True)), adaptation.learner.step_size(meta, step)
                )
    return at.adapted
