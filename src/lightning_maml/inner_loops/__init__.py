"""How a task adapts, and how the outer gradient flows back."""

from lightning_maml.inner_loops.contracts import InnerLoop, Learner, Objective, Parameters, Trajectory
from lightning_maml.inner_loops.higher_loop import HigherLoop

__all__ = ["HigherLoop", "InnerLoop", "Learner", "Objective", "Parameters", "Trajectory"]
