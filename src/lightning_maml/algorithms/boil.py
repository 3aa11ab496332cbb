"""BOIL: only the body adapts."""

from torch import Tensor, nn

from lightning_maml.algorithms.feature_learner import require_body_and_head
from lightning_maml.algorithms.maml import MAML
from lightning_maml.episodes import Task
from lightning_maml.inner_loops import Parameters


class BOIL(MAML):
    """Body only update in the inner loop (Oh et al. 2021, "BOIL: Towards Representation Change for Few-shot Learning"):
    with θ = (θ_body, θ_head),

        φ_0 = θ_body,   φ_{k+1} = φ_k − α ∇_φ L_support(φ_k, θ_head),   min_θ  E_tasks L_query(φ_K, θ_head)

    The head is learned by the outer loop alone.

    Raises:
        SettingError: if the network has no body and no linear head.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        require_body_and_head(network, "BOIL")

    def start(self, meta: Parameters, task: Task) -> dict[str, Tensor]:
        return self.of_network(meta, "body")
