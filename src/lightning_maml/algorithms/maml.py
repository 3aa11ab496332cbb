"""MAML's learner: the whole network adapts, from the meta-parameters themselves."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from lightning_maml.episodes import Task
from lightning_maml.inner_loops import Learner, Parameters


class MAML(Learner):
    """Model-agnostic meta-learning (Finn et al. 2017, algorithm 2):

        φ_0 = θ,   φ_{k+1} = φ_k − α ∇_φ L_support(φ_k),   min_θ  E_tasks L_query(φ_K(θ))

    The start is θ itself; the update rule, its step size α and the gradient through it are the inner loop's.

    Args:
        network: any module from inputs to logits or targets. Frozen parameters (`requires_grad=False`) do not adapt.
            Its batch norms are set to normalize by the batch at hand, as MAML's do; other buffers are never changed.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        # Running statistics belong to one data distribution; here every task is another, and evaluation adapts too.
        torch.func.replace_all_batch_norm_modules_(network)

    def start(self, meta: Parameters, task: Task) -> dict[str, Tensor]:
        prefix = "network."
        return {name.removeprefix(prefix): value for name, value in meta.items() if name.startswith(prefix)}

    def predict(
        self, meta: Parameters, adapted: Parameters, x: Float[Tensor, "samples *input"], step: int
    ) -> Float[Tensor, "samples outputs"]:
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        return functional_call(self.network, {**buffers, **adapted}, (x,))
