"""UNICORN-MAML: one learned vector is the start of every class's head."""

from jaxtyping import Float
from torch import Tensor, nn

from lightning_maml.algorithms.feature_learner import absent, require_body_and_head
from lightning_maml.algorithms.maml import NetworkLearner
from lightning_maml.episodes import Task
from lightning_maml.inner_loops import Parameters


class UnicornMAML(NetworkLearner):
    """MAML whose head starts from the same vector w for every class (Ye and Chao 2022, "How to Train Your MAML to Excel
    in Few-Shot Classification", section 5):

        φ_0 = (θ_body, w, …, w),   φ_{k+1} = φ_k − α ∇_φ L_support(φ_k),   min_{θ_body, w}  E_tasks L_query(φ_K)

    All classes are alike at the start, so that a permutation of the classes permutes the logits and nothing else, and
    there may be any number of ways.

    Raises:
        SettingError: if the network has no body and no linear head.
    """

    any_ways = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        head = require_body_and_head(network, "UNICORN-MAML")
        self.ways = head.out_features
        # The mean of the head's rows: as its classes are alike, so is what they have in common.
        self.head_weight = nn.Parameter(head.weight.detach().mean(dim=0))
        self.head_bias = nn.Parameter(head.weight.detach().new_zeros(()))
        network.head = nn.Identity()

    def start(self, meta: Parameters, task: Task) -> dict[str, Tensor]:
        weight = meta["head_weight"].expand(self.ways, -1)
        return self.of_network(meta) | {
            "weight": weight,
            "bias": meta["head_bias"] + absent(task.support_y, self.ways, weight),
        }

    def predict(
        self, meta: Parameters, adapted: Parameters, x: Float[Tensor, "samples *input"], step: int
    ) -> Float[Tensor, "samples outputs"]:
        return nn.functional.linear(self.call(adapted, x, "body"), adapted["weight"], adapted["bias"])
