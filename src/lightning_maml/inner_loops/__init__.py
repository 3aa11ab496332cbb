"""How a task adapts, and how the outer gradient flows back."""

from lightning_maml.inner_loops.auto_loop import AutoLoop
from lightning_maml.inner_loops.contracts import InnerLoop, Learner, Objective, Parameters, Trajectory
from lightning_maml.inner_loops.higher_loop import HigherLoop
from lightning_maml.inner_loops.implicit_loop import ImplicitLoop
from lightning_maml.inner_loops.recompute_loop import RecomputeLoop
from lightning_maml.inner_loops.reptile_loop import ReptileLoop
from lightning_maml.inner_loops.vectorized_loop import VectorizedLoop

__all__ = [
    "AutoLoop",
    "HigherLoop",
    "ImplicitLoop",
    "InnerLoop",
    "Learner",
    "Objective",
    "Parameters",
    "RecomputeLoop",
    "ReptileLoop",
    "Trajectory",
    "VectorizedLoop",
]
