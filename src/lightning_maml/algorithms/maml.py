"""MAML's learner: the whole network adapts, from the meta-parameters themselves."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from lightning_maml.episodes import Task
from lightning_maml.inner_loops import Learner, Parameters
from lightning_maml.models import keeps_statistics, normalize_by
from lightning_maml.models.spectral_norms import iterate, iterates

_NETWORK = "network."


class NetworkLearner(Learner):
    """A learner around one network, which is called as a function of its parameters.

    Args:
        network: any module from inputs to logits or targets. Its batch and instance norms are set to normalize by the
            batch at hand, unless `normalize_by(network, "running")` came before; a spectral norm's power iterations go
            on with θ; other buffers are never changed.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        normalize_by(network, "batch")

    def train(self, mode: bool = True) -> "NetworkLearner":
        """Set the mode of all modules but those that are the same in training and evaluation: normalizations by
        statistics that stay as they are, and spectral norms, whose power iterations take φ into account."""
        super().train(mode)
        for module in self.modules():
            module.training = (module.training or iterates(module)) and not keeps_statistics(module)
        return self

    def after_update(self) -> None:
        """Iterate spectral norms at θ; an inner step's own iteration begins from there."""
        with torch.no_grad():
            for module in self.network.modules():
                iterate(module)

    def of_network(self, meta: Parameters, part: str = "") -> dict[str, Tensor]:
        """Return the parameters of the network, or of its `part` "body" or "head", by their names in the network."""
        prefix = f"{_NETWORK}{part}." if part else _NETWORK
        return {name.removeprefix(_NETWORK): value for name, value in meta.items() if name.startswith(prefix)}

    def call(
        self, parameters: Parameters, x: Float[Tensor, "samples *input"], part: str = ""
    ) -> Float[Tensor, "samples outputs"]:
        """Return the output of the network, or of its `part`, at `parameters`, named as in the network."""
        module: nn.Module = getattr(self.network, part) if part else self.network
        prefix = f"{part}." if part else ""
        own = {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        result: Tensor = functional_call(module, {**buffers, **own}, (x,))
        return result


class MAML(NetworkLearner):
    """Model-agnostic meta-learning (Finn et al. 2017, algorithm 2):

        φ_0 = θ,   φ_{k+1} = φ_k − α ∇_φ L_support(φ_k),   min_θ  E_tasks L_query(φ_K(θ))

    The start is θ itself; the update rule, its step size α and the gradient through it are the inner loop's. With
    `algorithm.objective.first_order=true` (`algorithm=fomaml`, section 5.2) the inner gradients are constants, and the
    outer gradient is that of L_query at φ_K. Frozen parameters of the network (`requires_grad=False`) do not adapt.
    """

    def start(self, meta: Parameters, task: Task) -> dict[str, Tensor]:
        return self.of_network(meta)

    def predict(
        self, meta: Parameters, adapted: Parameters, x: Float[Tensor, "samples *input"], step: int
    ) -> Float[Tensor, "samples outputs"]:
        return self.call({**self.of_network(meta), **adapted}, x)
