"""ANIL: only the head adapts."""

from jaxtyping import Float
from torch import Tensor, nn

from lightning_maml.algorithms.feature_learner import require_body_and_head
from lightning_maml.algorithms.maml import MAML
from lightning_maml.episodes import Task
from lightning_maml.inner_loops import Parameters


class ANIL(MAML):
    """Almost no inner loop (Raghu et al. 2020, "Rapid Learning or Feature Reuse?"): with θ = (θ_body, θ_head) and
    z = body(x; θ_body),

        φ_0 = θ_head,   φ_{k+1} = φ_k − α ∇_φ L_support(head(z; φ_k)),   min_θ  E_tasks L_query(head(z; φ_K))

    The features z are computed once per task; the outer gradient is the unrolled one, through z as well.

    Raises:
        SettingError: if the network has no body and no linear head.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        require_body_and_head(network, "ANIL")

    def encode(self, meta: Parameters, task: Task) -> Task:
        body = self.of_network(meta, "body")
        support, query = (self.call(body, x, "body") for x in (task.support_x, task.query_x))
        return task._replace(support_x=support, query_x=query)

    def start(self, meta: Parameters, task: Task) -> dict[str, Tensor]:
        return self.of_network(meta, "head")

    def predict(
        self, meta: Parameters, adapted: Parameters, x: Float[Tensor, "samples features"], step: int
    ) -> Float[Tensor, "samples outputs"]:
        return self.call(adapted, x, "head")
