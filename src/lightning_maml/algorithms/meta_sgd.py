"""Meta-SGD: the step size of every parameter is learned."""

import torch
from torch import Tensor, nn

from lightning_maml.algorithms.maml import MAML
from lightning_maml.arguments import checked
from lightning_maml.inner_loops import Parameters


class MetaSGD(MAML):
    """MAML with a learned step size α for every single parameter (Li et al. 2017, "Meta-SGD", equation 2):

        φ_{k+1} = φ_k − α ∘ ∇_φ L_support(φ_k),   min_{θ, α}  E_tasks L_query(φ_K)

    α may take any sign. It is the inner optimizer's learning rate that it replaces.

    Args:
        network: as for MAML.
        step_size: where every α starts.
    """

    @checked
    def __init__(self, network: nn.Module, step_size: float) -> None:
        super().__init__(network)
        self.step_sizes = nn.ParameterDict(
            {
                as_key(name): torch.full_like(parameter, step_size)
                for name, parameter in network.named_parameters()
                if parameter.requires_grad
            }
        )

    def step_size(self, meta: Parameters, step: int) -> dict[str, Tensor]:
        return {name: meta[f"step_sizes.{as_key(name)}"] for name in self.of_network(meta)}


def as_key(name: str) -> str:
    """Return a parameter's name as the key of a `ParameterDict`, which takes no dots."""
    return name.replace(".", "/")
