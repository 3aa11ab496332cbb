"""MAML++: MAML with what makes it stable, each part a switch of its own."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_maml.algorithms.maml import MAML
from lightning_maml.algorithms.meta_sgd import as_key
from lightning_maml.arguments import Count, checked
from lightning_maml.inner_loops import Parameters

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.LayerNorm, nn.GroupNorm)


class MAMLPlusPlus(MAML):
    """MAML++ (Antoniou et al. 2019, "How to Train Your MAML", section 4), its learner's part:

        φ_{k+1}[l] = φ_k[l] − α[l, k] ∇ L_support(φ_k; γ_k, β_k)[l]   for each tensor l of the network

    with a learned step size α for each tensor and step, and scales γ_k and shifts β_k of the normalizations for each
    step, which the outer loop alone learns. Beyond step K − 1 those of the last step are used, in evaluation too. The
    other parts are the objective's (`MultiStepLoss`: multi-step loss, derivative-order annealing) and the scheduler's
    (cosine). The authors' code normalizes by the batch at hand throughout, so their running statistics play no part.

    Args:
        network: as for MAML.
        num_steps: K, the inner steps of meta-training.
        step_size: where every α starts.
        learned_step_sizes: whether α is learned; if not, the inner optimizer's learning rate is taken.
        norms_per_step: whether γ and β are per step and not adapted; if not, they adapt as everything else does.
    """

    @checked
    def __init__(
        self,
        network: nn.Module,
        num_steps: Count,
        step_size: float,
        learned_step_sizes: bool = True,
        norms_per_step: bool = True,
    ) -> None:
        super().__init__(network)
        self._last = num_steps - 1
        of_norms = _parameters_of_norms(network) if norms_per_step else {}
        self._norms = list(of_norms)
        self.norms = nn.ParameterDict(
            {as_key(name): value.detach().repeat(num_steps, *[1] * value.dim()) for name, value in of_norms.items()}
        )
        for value in of_norms.values():
            value.requires_grad_(False)  # `norms` stands for them
        adapting = [name for name, value in network.named_parameters() if value.requires_grad]
        self.step_sizes = nn.ParameterDict(
            {as_key(name): torch.full((num_steps,), step_size) for name in adapting if learned_step_sizes}
        )

    def predict(
        self, meta: Parameters, adapted: Parameters, x: Float[Tensor, "samples *input"], step: int
    ) -> Float[Tensor, "samples outputs"]:
        of_step = {name: meta[f"norms.{as_key(name)}"][min(step, self._last)] for name in self._norms}
        return super().predict(meta, {**adapted, **of_step}, x, step)

    def step_size(self, meta: Parameters, step: int) -> dict[str, Tensor] | None:
        if not self.step_sizes:
            return None
        rates = {name: meta[f"step_sizes.{as_key(name)}"] for name in self.of_network(meta)}
        return {name: rate[min(step, self._last)] for name, rate in rates.items()}


def _parameters_of_norms(network: nn.Module) -> dict[str, nn.Parameter]:
    return {
        f"{path}.{name}" if path else name: parameter
        for path, module in network.named_modules()
        if isinstance(module, _NORMS)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    }
