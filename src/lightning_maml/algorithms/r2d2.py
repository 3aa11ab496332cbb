"""R2-D2: the head is a ridge regression, solved in closed form."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_maml.algorithms.feature_learner import FeatureLearner, absent, membership
from lightning_maml.arguments import Positive, checked
from lightning_maml.episodes import Task
from lightning_maml.inner_loops import Parameters


class R2D2(FeatureLearner):
    """Ridge regression differentiable discriminator (Bertinetto et al. 2019, "Meta-learning with Differentiable
    Closed-form Solvers", equations 4 to 6): with support features Z `[samples, features]` and one-hot labels Y,

        W = Zᵀ (Z Zᵀ + λ I)⁻¹ Y,   logits = s·z W + b,   min over θ, λ, s, b of  E_tasks L_query

    The system has the size of the support set, not of the features (Woodbury's identity). Nothing adapts by gradient.

    Args:
        network: a `body` and a linear `head`, which is replaced.
        ridge: where λ starts; it is learned as log λ, and so stays positive.
        scale: where s starts.

    Raises:
        SettingError: if the network has no body and no linear head, or λ is not positive.
    """

    @checked
    def __init__(self, network: nn.Module, ridge: Positive = 1.0, scale: float = 10.0) -> None:
        super().__init__(network)
        self.log_ridge = nn.Parameter(torch.tensor(float(ridge)).log())
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.bias = nn.Parameter(torch.zeros(()))

    def start(self, meta: Parameters, task: Task) -> dict[str, Tensor]:
        z, y = task.support_x, membership(task.support_y, self.ways).to(task.support_x.dtype)
        return {
            "weight": meta["scale"] * ridge_regression(z, y, meta["log_ridge"].exp()),
            "bias": meta["bias"] + absent(task.support_y, self.ways, z),
        }

    def predict(
        self, meta: Parameters, adapted: Parameters, x: Float[Tensor, "samples features"], step: int
    ) -> Float[Tensor, "samples ways"]:
        return x @ adapted["weight"] + adapted["bias"]


def ridge_regression(
    z: Float[Tensor, "samples features"], y: Float[Tensor, "samples ways"], ridge: Float[Tensor, ""]
) -> Float[Tensor, "features ways"]:
    """Return argmin over W of ‖Z W − Y‖² + ridge·‖W‖², in float32 at least: no solver takes bfloat16."""
    precision = torch.promote_types(ridge.dtype, torch.float32)
    with torch.autocast(z.device.type, enabled=False):
        z, y, penalty = (value.to(precision) for value in (z, y, ridge))
        gram = z @ z.T + penalty * torch.eye(len(z), dtype=precision, device=z.device)
        # `solve` would wait for a GPU to say that the matrix is regular, which ridge > 0 makes it.
        return (z.T @ torch.linalg.solve_ex(gram, y).result).to(ridge.dtype)
