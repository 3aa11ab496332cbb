"""iMAML: the outer gradient from the solution of the inner problem, not from the way to it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_maml.arguments import Count, NotNegative, Positive, checked
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops.contracts import Learner, Objective, Parameters
from lightning_maml.inner_loops.fast_learners import ManyTasks, encodes
from lightning_maml.inner_loops.functional_loop import ChunkSize, FunctionalLoop
from lightning_maml.inner_loops.higher_loop import Adaptation, Updater
from lightning_maml.inner_loops.linear_solvers import conjugate_gradient, neumann_series
from lightning_maml.inner_loops.proximal_problem import NewtonDescent, ProximalDescent, ProximalProblem
from lightning_maml.inner_loops.records import Record

InnerSolver = Literal["gradient_descent", "hessian_free"]
OuterSolver = Literal["cg", "neumann", "finite_difference"]


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

    def _gradients(self, adaptation: Adaptation, record: Record) -> list[Tensor]:
        _require_solvable(adaptation)
        adaptation, start = adaptation.started()
        steps, meta = adaptation.steps, list(adaptation.meta.values())
        constants = {name: value.detach() for name, value in adaptation.meta.items()}
        constant = replace(adaptation, meta=constants, objective=Objective(trace=adaptation.objective.trace))
        problem = _problem(constant, start, self._proximal)
        leaves = {name: value.detach().requires_grad_() for name, value in start.items()}
        update = self._solver(problem)
        adapted, _ = constant.descend(leaves, update, record, range(steps))

        _, (outer_loss,) = adaptation.descend(adapted, update, record, [steps])
        slopes = torch.autograd.grad(outer_loss, [*adapted.values(), *meta], materialize_grads=True)
        back = self._through_the_solution(problem, adapted, problem.flat(slopes[: len(adapted)]))
        cotangents = list(problem.split(back).values())
        through = torch.autograd.grad(list(start.values()), meta, cotangents, materialize_grads=True)
        total = torch._foreach_add(slopes[len(adapted) :], through)
        if {id(value) for value in start.values()} == {id(value) for value in meta}:
            return list(total)  # everything that is learned adapts: the inner problem depends on θ by φ_0 alone
        return list(torch._foreach_add(total, self._through_the_problem(adaptation, problem, adapted, back)))

    def _evaluate(self, adaptation: Adaptation, record: Record) -> dict[str, Tensor]:
        _require_unencoded(adaptation.learner)
        adaptation, start = adaptation.started()
        problem = _problem(adaptation, start, self._proximal if self._proximal_in_evaluation else 0.0)
        return adaptation.descend(start, self._solver(problem), record)[0]

    def _solver(self, problem: ProximalProblem) -> Updater:
        if self._inner_solver == "hessian_free":
            return NewtonDescent(problem, self._inner_cg_steps)
        return ProximalDescent(problem, self._updater(problem.origin, problem.adaptation.objective))

    def _through_the_solution(self, problem: ProximalProblem, adapted: Parameters, slopes: Tensor) -> Tensor:
        """Return (I + ∇²L_support(φ)/λ)⁻¹, damped, times the slopes `[tasks, n]` of the query loss."""
        steps = problem.adaptation.steps
        if self._outer_solver == "finite_difference":
            hessian = problem.hessian_by_differences(adapted, steps)
        else:
            hessian = problem.hessian(
                problem.slope(problem.losses(adapted, steps), adapted, create_graph=True), adapted
            )
        rho, delta = self._damping

        def damped(v: Tensor) -> Tensor:
            return (1 + rho) * v + hessian(v) / (self._proximal + delta)

        if self._outer_solver == "neumann":
            return neumann_series(damped, slopes, self._outer_steps, self._neumann_step_size)
        return conjugate_gradient(damped, slopes, self._outer_steps)

    def _through_the_problem(
        self, adaptation: Adaptation, problem: ProximalProblem, adapted: Parameters, back: Tensor
    ) -> list[Tensor]:
        """Return how φ* moves with the parameters that the inner loss takes from θ and that do not adapt:

        −(1/λ) ∂/∂θ ⟨∇_φ L_support(φ*, θ), v⟩  with v = (I + ∇²L_support/λ)⁻¹ ∇L_query
        """
        of_theta = replace(problem, adaptation=adaptation)
        slope = of_theta.slope(of_theta.losses(adapted, adaptation.steps), adapted, create_graph=True)
        meta = list(adaptation.meta.values())
        if not slope.requires_grad:
            return [torch.zeros_like(value) for value in meta]
        return list(torch.autograd.grad(slope, meta, back / -self._proximal, materialize_grads=True))


def _problem(adaptation: Adaptation, start: Parameters, proximal: float) -> ProximalProblem:
    num_tasks = len(adaptation.task.support_x) if isinstance(adaptation.learner, ManyTasks) else 1
    return ProximalProblem(adaptation, {name: value.detach() for name, value in start.items()}, proximal, num_tasks)


def _require_solvable(adaptation: Adaptation) -> None:
    """Check that the outer gradient depends on the solution of the inner problem alone.

    Raises:
        SettingError: if the objective weighs other losses, or features or step sizes are learned.
    """
    objective, learner = adaptation.objective, adaptation.learner
    if set(objective.query) - {adaptation.steps} or objective.support:
        remedy = "its gradients are of the solution alone, and this objective weighs other losses too; use higher"
        raise SettingError("inner_loop", "implicit", remedy)
    _require_unencoded(learner)
    if adaptation.steps and learner.step_size(adaptation.meta, 0) is not None:
        raise SettingError("inner_loop", "implicit", "the solution does not depend on learned step sizes; use higher")


def _require_unencoded(learner: Learner) -> None:
    """Check that no features are learned outside the inner problem, which would not know of them.

    Raises:
        SettingError: if there are.
    """
    if encodes(learner):
        remedy = "this method's features are learned outside the inner problem; use higher"
        raise SettingError("inner_loop", "implicit", remedy)
