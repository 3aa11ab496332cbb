"""MAML's learner: the whole network adapts, from the meta-parameters themselves."""

from jaxtyping import Float
from torch import Tensor

from lightning_maml.algorithms.network_learner import NetworkLearner
from lightning_maml.episodes import Task
from lightning_maml.inner_loops import Parameters


class MAML(NetworkLearner):
    """Model-agnostic meta-learning (Finn et al. 2017, algorithm 2):

        φ_0 = θ,   φ_{k+1} = φ_k − α ∇_φ L_support(φ_k),   min_θ  E_tasks L_query(φ_K(θ))

    The start is θ itself; the update rule, its step size α and the gradient through it are the inner loop's. With
    `algorithm.objective.first_order=true` (`algorithm=fomaml`, section 5.2) the inner gradients are constants, and the
    outer gradient is that of L_query at φ_K.

    Frozen parameters of the network (`requires_grad=False`) do not adapt.
    """

    def start(self, meta: Parameters, task: Task) -> dict[str, Tensor]:
        return self.of_network(meta)

    def predict(
        self, meta: Parameters, adapted: Parameters, x: Float[Tensor, "samples *input"], step: int
    ) -> Float[Tensor, "samples outputs"]:
        return self.call({**self.of_network(meta), **adapted}, x)
