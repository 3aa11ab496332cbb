"""Memory that does not grow with the number of inner steps."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.arguments import Count, checked
from lightning_maml.episodes import Episodes, Task
from lightning_maml.inner_loops.chunk import Chunk
from lightning_maml.inner_loops.contracts import Parameters, TaskRecord
from lightning_maml.inner_loops.functional_loop import ChunkSize, FunctionalLoop
from lightning_maml.inner_loops.generators import Generators
from lightning_maml.inner_loops.sgd import Descent
from lightning_maml.inner_loops.unrolled import Adaptation


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

    def gradients(self, adaptation: Adaptation, meta: Parameters, chunk: Chunk, record: TaskRecord) -> list[Tensor]:
        encoded = chunk.encode(meta)
        inputs, chunk = _leaves_of(encoded, chunk)
        started = chunk.start(meta)
        random = Generators(chunk.data.support_x.device)
        at = Descent({name: value.detach() for name, value in started.items()}, {})
        kept = []
        for first in range(0, adaptation.steps + 1, self._keep_every):
            kept.append((first, at, random.state()))
            for step in range(first, min(first + self._keep_every, adaptation.steps)):
                at = Descent({name: value.detach().requires_grad_() for name, value in at.adapted.items()}, at.momentum)
                at, _ = adaptation.advance(meta, chunk, at, step, None, differentiable=False)
                at = Descent(*({name: value.detach() for name, value in part.items()} for part in at))

        sources = [*meta.values(), *inputs]
        sums = [torch.zeros_like(source) for source in sources]
        adjoint: dict[str, Tensor] = {}
        for first, at, state in reversed(kept):
            with random.repeating(state):
                adjoint, sums = self._segment(adaptation, meta, chunk, first, at, record, adjoint, sources, sums)

        # What is left: through φ_0, and through what was computed before adaptation.
        outputs = [(value, adjoint[f"adapted.{name}"]) for name, value in started.items()]
        through = torch._foreach_add(_pull(outputs, sources), sums)
        of_meta, of_inputs = through[: len(meta)], through[len(meta) :]
        if not inputs:
            return list(of_meta)
        before = _pull(list(zip(_floats(encoded), of_inputs, strict=True)), list(meta.values()))
        return list(torch._foreach_add(of_meta, before))

    def _segment(
        self,
        adaptation: Adaptation,
        meta: Parameters,
        chunk: Chunk,
        first: int,
        at: Descent,
        record: TaskRecord,
        adjoint: dict[str, Tensor],
        sources: list[Tensor],
        sums: list[Tensor],
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Recompute a segment from its first φ, and carry the adjoint of its last through it."""
        at = Descent(*({name: value.detach().requires_grad_() for name, value in part.items()} for part in at))
        leaves = _named(at)
        losses = []
        for step in range(first, min(first + self._keep_every, adaptation.steps + 1)):
            at, loss = adaptation.advance(meta, chunk, at, step, record, differentiable=True)
            losses += [] if loss is None else [(loss, torch.ones_like(loss))]
        after = _named(at)
        outputs = [(after[name], value) for name, value in adjoint.items()] + losses
        gradients = _pull(outputs, [*leaves.values(), *sources])
        carried = dict(zip(leaves, gradients, strict=False))
        return carried, list(torch._foreach_add(sums, gradients[len(leaves) :]))


def _named(at: Descent) -> dict[str, Tensor]:
    parts = zip(("adapted", "momentum"), at, strict=True)
    return {f"{part}.{name}": value for part, values in parts for name, value in values.items()}


def _pull(outputs: list[tuple[Tensor, Tensor]], sources: list[Tensor]) -> list[Tensor]:
    """Σ over outputs of (∂output/∂source)ᵀ cotangent, for each source."""
    live = [(output, cotangent) for output, cotangent in outputs if output.requires_grad]
    if not live:
        return [torch.zeros_like(source) for source in sources]
    values, cotangents = zip(*live, strict=True)
    return list(torch.autograd.grad(values, sources, cotangents, allow_unused=True, materialize_grads=True))


def _floats(data: Task | Episodes) -> list[Tensor]:
    """The inputs that encoding may have made from θ."""
    return [value for value in (data.support_x, data.query_x) if value.requires_grad]


def _leaves_of(encoded: Task | Episodes, chunk: Chunk) -> tuple[list[Tensor], Chunk]:
    """The encoded inputs cut off from θ, as leaves of their own; and the chunk that has them."""
    cut = {
        name: value.detach().requires_grad_() if value.requires_grad else value
        for name, value in encoded._asdict().items()
    }
    data = type(encoded)(**cut)
    return _floats(data), chunk.having(data)
