"""iMAML: the outer gradient from the solution of the inner problem, not from the way to it."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.arguments import Count, NotNegative, Positive, checked
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops.chunk import Chunk, of_split
from lightning_maml.inner_loops.contracts import Learner, Parameters, TaskRecord
from lightning_maml.inner_loops.functional_loop import ChunkSize, FunctionalLoop
from lightning_maml.inner_loops.linear_solvers import conjugate_gradient, neumann_series
from lightning_maml.inner_loops.proximal_problem import ProximalProblem
from lightning_maml.inner_loops.sgd import Descent
from lightning_maml.inner_loops.unrolled import Adaptation

InnerSolver = Literal["gradient_descent", "hessian_free"]
OuterSolver = Literal["cg", "neumann", "finite_difference"]

_HALVINGS = 10  # of a Newton step
_DECREASE = 1e-4  # of what the slope promises that a step must bring (Armijo)


class ImplicitLoop(FunctionalLoop):
    """Model-agnostic meta-learning with implicit gradients (Rajeswaran et al. 2019, "Meta-Learning with Implicit
    Gradients", equations 3 to 6): adaptation solves, from φ_0(θ),

        φ* = argmin_φ  L_support(φ) + (λ/2)‖φ − φ_0‖²

    in K steps, and the outer gradient is that of the solution,

        ∇_{φ_0} L_query(φ*) = (I + ∇²L_support(φ*)/λ)⁻¹ ∇_φ L_query(φ*)

    however it was found: memory does not depend on K, and there is an error as long as φ_K is not φ*.

    Args:
        inner_optimizer: a partial of `torch.optim.SGD`, for gradient descent.
        proximal: λ. (Betty's 0.25·‖φ − θ‖² is λ = 0.5; the paper's Omniglot runs use λ = 2.)
        inner_solver: "gradient_descent", K steps of SGD; "hessian_free", K Newton steps, each by conjugate gradients
            and a line search.
        inner_cg_steps: conjugate-gradient steps of a Newton step.
        outer_solver: how the inverse is applied. "cg": conjugate gradients; "neumann": the series
            η Σ (I − ηA)^i; "finite_difference": conjugate gradients again, with products of the Hessian from two
            gradients, which need no second derivative of the network.
        outer_steps: products with the Hessian.
        identity_damping, proximal_damping: ρ and δ ≥ 0 of what is solved in place of the inverse above,
            ((1 + ρ) I + ∇²L_support/(λ + δ)) x = ∇L_query. A network's Hessian has curvatures below −λ, where the
            solution is no minimum and the undamped system nearly singular. The authors' code takes ρ = 1 and δ = 10.
        neumann_step_size: η, below 2 over the largest eigenvalue of I + ∇²L/λ.
        proximal_in_evaluation: whether validation and test adapt with the proximal term, too.
        vectorized: all tasks of a chunk at once; or one by one.
        chunk_size: tasks at once, if vectorized.

    Raises:
        SettingError: for another inner optimizer, or a setting out of its range.
    """

    @checked
    def __init__(
        self,
        inner_optimizer: Callable[..., Optimizer],
        proximal: Positive = 2.0,
        inner_solver: InnerSolver = "gradient_descent",
        inner_cg_steps: Count = 5,
        outer_solver: OuterSolver = "cg",
        outer_steps: Count = 5,
        identity_damping: NotNegative = 0.0,
        proximal_damping: NotNegative = 0.0,
        neumann_step_size: Positive = 0.1,
        proximal_in_evaluation: bool = True,
        vectorized: bool = False,
        chunk_size: ChunkSize = "auto",
    ) -> None:
        super().__init__(inner_optimizer, chunk_size, vectorized=vectorized)
        self._proximal = proximal
        self._inner_solver = inner_solver
        self._inner_cg_steps = inner_cg_steps
        self._outer_solver = outer_solver
        self._outer_steps = outer_steps
        self._damping = identity_damping, proximal_damping
        self._neumann_step_size = neumann_step_size
        self._proximal_in_evaluation = proximal_in_evaluation

    def gradients(self, adaptation: Adaptation, meta: Parameters, chunk: Chunk, record: TaskRecord) -> list[Tensor]:
        objective = adaptation.objective
        if set(objective.query) - {adaptation.steps} or objective.support:
            remedy = "its gradients are of the solution alone, and this objective weighs other losses too; use higher"
            raise SettingError("inner_loop", "implicit", remedy)
        _require_unencoded(adaptation.learner)
        if adaptation.steps and adaptation.learner.step_size(meta, 0) is not None:
            raise SettingError(
                "inner_loop", "implicit", "the solution does not depend on learned step sizes; use higher"
            )
        constants = {name: value.detach() for name, value in meta.items()}
        start = chunk.start(meta)
        at = self._solve(adaptation, constants, chunk, start, self._proximal, record, evaluation=objective.trace)

        adapted = {name: value.detach().requires_grad_() for name, value in at.items()}
        losses, outputs = chunk.losses(meta, adapted, "query", adaptation.steps)
        record.add("query", adaptation.steps, losses, outputs, of_split(chunk.data, "query")[1])
        weighted = objective.query.get(adaptation.steps, 0.0) * losses.sum()
        sources = [*adapted.values(), *meta.values()]
        slopes = torch.autograd.grad(weighted, sources, materialize_grads=True)
        values = list(adapted.values())
        back = self._through_the_solution(adaptation, constants, chunk, values, list(adapted), slopes[: len(adapted)])
        outputs_of_start = [value for value in start.values() if value.requires_grad]
        cotangents = [one for value, one in zip(start.values(), back, strict=True) if value.requires_grad]
        through = torch.autograd.grad(
            outputs_of_start, list(meta.values()), cotangents, allow_unused=True, materialize_grads=True
        )
        direct = torch._foreach_add(list(slopes[len(adapted) :]), list(through))
        if {id(value) for value in start.values()} == {id(value) for value in meta.values()}:
            return list(direct)  # everything that is learned adapts: the inner problem depends on θ by φ_0 alone
        return list(torch._foreach_add(direct, self._through_the_problem(adaptation, meta, chunk, adapted, back)))

    def _through_the_problem(
        self, adaptation: Adaptation, meta: Parameters, chunk: Chunk, adapted: Parameters, back: list[Tensor]
    ) -> list[Tensor]:
        """How φ* moves with the parameters that the inner loss takes from θ and that do not adapt:

        −(1/λ) ∂/∂θ ⟨∇_φ L_support(φ*, θ), v⟩  with v = (I + ∇²L_support/λ)⁻¹ ∇L_query
        """
        losses, _ = chunk.losses(meta, adapted, "support", adaptation.steps)
        slopes = torch.autograd.grad(
            losses.sum(), list(adapted.values()), create_graph=True, allow_unused=True, materialize_grads=True
        )
        pairs = zip(slopes, back, strict=True)
        product = torch.stack([(slope * one).sum() for slope, one in pairs]).sum() / -self._proximal
        if not product.requires_grad:
            return [torch.zeros_like(value) for value in meta.values()]
        return list(torch.autograd.grad(product, list(meta.values()), allow_unused=True, materialize_grads=True))

    def solve(
        self, adaptation: Adaptation, meta: Parameters, chunk: Chunk, record: TaskRecord | None
    ) -> dict[str, Tensor]:
        _require_unencoded(adaptation.learner)
        meta = {name: value.detach() for name, value in meta.items()}
        proximal = self._proximal if self._proximal_in_evaluation else 0.0
        evaluation = record is not None
        record = record or TaskRecord.empty(adaptation.steps)
        return self._solve(adaptation, meta, chunk, chunk.start(meta), proximal, record, evaluation=evaluation)

    def _solve(
        self,
        adaptation: Adaptation,
        meta: Parameters,
        chunk: Chunk,
        start: Parameters,
        proximal: float,
        record: TaskRecord,
        *,
        evaluation: bool,
    ) -> dict[str, Tensor]:
        """φ_K. Records the support loss of every step and, for an evaluation, the query losses and the last one."""
        origin = {name: value.detach() for name, value in start.items()}
        at = Descent(origin, {})
        for step in range(adaptation.steps + 1):
            at = Descent({name: value.detach().requires_grad_() for name, value in at.adapted.items()}, at.momentum)
            if evaluation:
                with torch.no_grad():
                    losses, outputs = chunk.losses(meta, at.adapted, "query", step)
                record.add("query", step, losses, outputs, of_split(chunk.data, "query")[1])
            if not (evaluation or step < adaptation.steps):
                continue
            losses, outputs = chunk.losses(meta, at.adapted, "support", step)
            record.add("support", step, losses, outputs, of_split(chunk.data, "support")[1])
            if step == adaptation.steps:
                continue
            problem = ProximalProblem(chunk, meta, step, list(at.adapted), proximal)
            if self._inner_solver == "gradient_descent":
                slopes = problem.slope(losses, at.adapted, origin)
                with torch.no_grad():
                    gradients = problem.split(slopes, at.adapted)
                    at = adaptation.sgd.step(at, gradients, adaptation.learner.step_size(meta, step))
            else:
                at = Descent(self._newton_step(problem, losses, at.adapted, origin), {})
        return {name: value.detach() for name, value in at.adapted.items()}

    def _newton_step(
        self, problem: ProximalProblem, losses: Tensor, adapted: Parameters, origin: Parameters
    ) -> dict[str, Tensor]:
        """A step of Newton's method, as far as conjugate gradients know it, halved until it brings something."""
        slope = problem.slope(losses, adapted, origin, create_graph=True)
        direction = conjugate_gradient(problem.hessian(slope, adapted), -slope.detach(), self._inner_cg_steps)
        with torch.no_grad():
            promised = (slope * direction).sum(dim=1)
            before, size = problem.value(adapted, origin), torch.ones_like(promised)
            for _ in range(_HALVINGS):
                tried = problem.moved(adapted, size[:, None] * direction)
                fails = problem.value(tried, origin) > before + _DECREASE * size * promised
                if losses.device.type == "cpu" and not fails.any():  # elsewhere asking takes longer than going on
                    break
                size = torch.where(fails, size / 2, size)
            return problem.moved(adapted, torch.where(fails, 0, size)[:, None] * direction)

    def _through_the_solution(
        self,
        adaptation: Adaptation,
        meta: Parameters,
        chunk: Chunk,
        values: Sequence[Tensor],
        names: Sequence[str],
        slopes: Sequence[Tensor],
    ) -> list[Tensor]:
        """(I + ∇²L_support(φ)/λ)⁻¹ applied to the slopes of the query loss."""
        problem = ProximalProblem(chunk, meta, adaptation.steps, list(names), self._proximal)
        adapted = dict(zip(names, values, strict=True))
        b = problem.flat(slopes)
        if self._outer_solver == "finite_difference":
            product = problem.hessian_by_differences(adapted)
        else:
            losses, _ = chunk.losses(meta, adapted, "support", adaptation.steps)
            product = problem.hessian(problem.slope(losses, adapted, adapted, create_graph=True), adapted)
        rho, delta = self._damping

        def damped(v: Tensor) -> Tensor:
            return (1 + rho) * v + (product(v) - self._proximal * v) / (self._proximal + delta)

        if self._outer_solver == "neumann":
            solution = neumann_series(damped, b, self._outer_steps, self._neumann_step_size)
        else:
            solution = conjugate_gradient(damped, b, self._outer_steps)
        return list(problem.split(solution, adapted).values())


def _require_unencoded(learner: Learner) -> None:
    """Check that no features are learned outside the inner problem, which would not know of them.

    Raises:
        SettingError: if there are.
    """
    if type(learner).encode is not Learner.encode:
        raise SettingError(
            "inner_loop", "implicit", "this method's features are learned outside the inner problem; use higher"
        )
