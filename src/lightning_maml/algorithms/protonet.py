"""Prototypical networks: the head is the classes' means."""

from jaxtyping import Float
from torch import Tensor
from torchmeta.utils.prototype import get_prototypes

from lightning_maml.algorithms.feature_learner import FeatureLearner, absent
from lightning_maml.episodes import Task
from lightning_maml.inner_loops import Parameters


class ProtoNet(FeatureLearner):
    """Prototypical networks (Snell et al. 2017, "Prototypical Networks for Few-shot Learning", equations 1 and 2): with
    features z = body(x; θ),

        c_n = mean of z over the support samples of class n,   p(y = n | x) ∝ exp(−‖z − c_n‖²),   min_θ  E_tasks L_query

    Nothing adapts by gradient: φ_0 is the prototypes, with no inner steps. Any number of ways, at any time.

    Raises:
        SettingError: if the network has no body and no linear head (which is replaced).
    """

    def start(self, meta: Parameters, task: Task) -> dict[str, Tensor]:
        prototypes = get_prototypes(task.support_x[None], task.support_y[None], self.ways)[0]
        return {
            "prototypes": prototypes,
            "absent": absent(task.support_y, self.ways, task.support_x),
        }

    def predict(
        self, meta: Parameters, adapted: Parameters, x: Float[Tensor, "samples features"], step: int
    ) -> Float[Tensor, "samples ways"]:
        distances = (x[:, None] - adapted["prototypes"]).pow(2).sum(dim=-1)
        return adapted["absent"] - distances
