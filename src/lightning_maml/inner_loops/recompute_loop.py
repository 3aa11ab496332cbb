"""Memory that does not grow with the number of inner steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.arguments import Count, checked
from lightning_maml.inner_loops.functional_loop import ChunkSize, FunctionalLoop
from lightning_maml.inner_loops.generators import Generators
from lightning_maml.inner_loops.higher_loop import Adaptation, leaves
from lightning_maml.inner_loops.records import Record
from lightning_maml.inner_loops.sgd import SGDUpdate


class RecomputeLoop(FunctionalLoop):
    """The unrolled gradient, exactly, with the activations of a few inner steps in memory, however many there are.

    Forward, φ_k and its momentum are kept before every `keep_every`-th step, and no graph. Backward, each segment of
    steps is computed again, with its graph, and the adjoint λ_k = ∂L/∂φ_k is carried through it:

        λ_k = (∂φ_{k+1}/∂φ_k)ᵀ λ_{k+1} + ∂L_k/∂φ_k,   ∇_θ L += (∂φ_{k+1}/∂θ)ᵀ λ_{k+1} + ∂L_k/∂θ

    where (∂φ_{k+1}/∂φ_k)ᵀλ = λ − α ∇²L_support(φ_k) λ is a Hessian-vector product. Random draws are repeated.

    Args:
        inner_optimizer: a partial of `torch.optim.SGD`.
        keep_every: steps of a segment; more take more memory for activations and less for φ. With two, fifty steps of a
            Conv4-64 take little more than five.
        vectorized: all tasks of a chunk at once, as `VectorizedLoop` does; or one by one.
        chunk_size: tasks at once, if vectorized.

    Raises:
        SettingError: for another inner optimizer, or a number below 1.

    Source: Griewank 1992, "Achieving logarithmic growth of temporal and spatial complexity in reverse automatic
    differentiation" (checkpointing).
    """

    @checked
    def __init__(
        self,
        inner_optimizer: Callable[..., Optimizer],
        keep_every: Count = 2,
        vectorized: bool = False,
        chunk_size: ChunkSize = "auto",
    ) -> None:
        super().__init__(inner_optimizer, chunk_size, vectorized=vectorized)
        self._keep_every = keep_every

    def _gradients(self, adaptation: Adaptation, record: Record) -> list[Tensor]:
        adaptation, adapted = adaptation.started()
        momentum: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        last = adaptation.steps // self._keep_every * self._keep_every
        for first in range(0, last, self._keep_every):
            steps = range(first, first + self._keep_every)
            segment = _Segment(adaptation, steps, list(adapted), list(momentum), self._settings, record)
            adapted, momentum, loss = segment.taken(adapted, momentum)
            losses += [] if loss is None else [loss]
        # The backward pass begins with the last segment, whose graph is made at once.
        update = SGDUpdate(self._settings, adaptation.objective, differentiable=True, momentum=momentum)
        losses += adaptation.descend(adapted, update, record, range(last, adaptation.steps + 1))[1]
        outer_loss = torch.stack(losses).sum()
        with torch.autograd.set_multithreading_enabled(False):  # in this thread, where autocast and modes are as here
            return list(torch.autograd.grad(outer_loss, list(adaptation.meta.values()), materialize_grads=True))


@dataclass(frozen=True)
class _Segment:
    """Some inner steps, as a function of tensors: θ, both inputs of the task, φ by its names and momentum by its own.

    It returns φ, the momentum of every entry of φ (None: it has none) and the weighted loss (None: there is none).
    """

    adaptation: Adaptation
    steps: Sequence[int]
    names: list[str]
    names_of_momentum: list[str]
    settings: dict[str, Any]
    record: Record

    def taken(
        self, adapted: dict[str, Tensor], momentum: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None]:
        """Return φ, momentum and loss; the graph between them and what they came from is made when it is needed."""
        meta, task = self.adaptation.meta, self.adaptation.task
        tensors = (*meta.values(), task.support_x, task.query_x, *adapted.values(), *momentum.values())
        *results, loss = _Recomputed.apply(self, *tensors)
        after = dict(zip(self.names, results, strict=False))
        momentum = {
            name: value for name, value in zip(self.names, results[len(after) :], strict=True) if value is not None
        }
        return after, momentum, loss

    def run(self, tensors: Sequence[Tensor], *, differentiable: bool) -> list[Tensor | None]:
        rest = iter(tensors)
        meta = {name: next(rest) for name in self.adaptation.meta}
        task = self.adaptation.task._replace(support_x=next(rest), query_x=next(rest))
        adapted = leaves({name: next(rest) for name in self.names})
        momentum = {name: next(rest) for name in self.names_of_momentum}
        update = SGDUpdate(self.settings, self.adaptation.objective, differentiable=differentiable, momentum=momentum)
        adapted, losses = replace(self.adaptation, meta=meta, task=task).descend(
            adapted, update, self.record, self.steps
        )
        loss = torch.stack(losses).sum() if losses else None
        return [*adapted.values(), *(update.momentum.get(name) for name in self.names), loss]


class _Recomputed(torch.autograd.Function):
    """A segment without its graph, which the backward pass makes by taking the segment's steps again."""

    @staticmethod
    def forward(ctx: Any, segment: _Segment, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        ctx.segment, ctx.generators = segment, Generators(tensors[0].device)
        ctx.state = ctx.generators.state()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        with torch.enable_grad():
            results = segment.run([tensor.detach() for tensor in tensors], differentiable=False)
        return tuple(None if result is None else result.detach() for result in results)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        tensors = [one.detach().requires_grad_(need) for one, need in zip(ctx.saved_tensors, needed, strict=True)]
        with torch.enable_grad(), ctx.generators.repeating(ctx.state):
            results = ctx.segment.run(tensors, differentiable=True)
        pairs = [(a, b) for a, b in zip(results, cotangents, strict=True) if a is not None and b is not None]
        live, of_live = zip(*((a, b) for a, b in pairs if a.requires_grad), strict=True)
        sources = [tensor for tensor, need in zip(tensors, needed, strict=True) if need]
        gradients = iter(torch.autograd.grad(live, sources, of_live, allow_unused=True))
        return None, *(next(gradients) if need else None for need in needed)
