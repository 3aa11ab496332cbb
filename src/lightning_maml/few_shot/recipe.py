"""What a checkpoint says beside its weights, so that it can be adapted without the configuration of its run."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Annotated, Any

import hydra
import torch
from pydantic import Field, StrictInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from lightning_maml.episodes import Episodes
from lightning_maml.errors import SettingError, one_line
from lightning_maml.inner_loops import InnerLoop, Learner
from lightning_maml.models import BatchNorm, materialize, normalize_by
from lightning_maml.training.checkpoint_files import require_few

# What a checkpoint, which may be a stranger's, can have built: classes of these packages, and nothing else.
_KNOWN = (
    "lightning_maml.models",
    "lightning_maml.algorithms",
    "lightning_maml.inner_loops",
    "lightning_maml.data.HashedWords",
    "lightning_maml.data.sources.hashed_words",
    "torchvision.transforms",
    "torch.optim",
)
_LARGEST = 2**63  # number that PyTorch takes
_LARGEST_SIDE, _MOST_STEPS = 4096, 10_000  # of an input; inner steps

Node = dict[str, Any]
"""A `_target_` and its arguments, as in Hydra's configurations."""


@dataclass(frozen=True)
class Recipe:
    """How to build a learner and its inner loop, and how images become its inputs; plain values only. src/run.py writes
    one into its checkpoints; docs/library.md shows how to do so by hand.

    Attributes:
        network, learner, inner_loop: what builds them.
        transforms: what builds each of the transforms, which are applied to an image one after another.
        input_shape: channels, height, width of one input.
        num_outputs: outputs of the head that the network was built with.
        steps: inner steps in evaluation.
        data: the dataset's name, for people.
        batch_norm: what the network's batch norms normalize by, see `normalize_by`; empty for networks without.
        brightness: the mean of the inputs of a meta-training task; infinity where it is not known.

    Raises:
        ValueError: if a value is of another kind or out of its range.
    """

    network: Node
    learner: Node
    inner_loop: Node
    transforms: list[Node]
    input_shape: list[Annotated[StrictInt, Field(gt=0)]]
    num_outputs: StrictInt
    steps: Annotated[StrictInt, Field(ge=0)]
    data: str = "data of one's own"
    batch_norm: str = ""
    brightness: float = math.inf

    @classmethod
    def of(
        cls, config: Mapping[str, Any], example: Episodes, num_outputs: int, data: str, batch_norm: BatchNorm | None
    ) -> "Recipe":
        """Return a run's, from its configuration in plain values, a meta-batch, and what its data have decided."""
        algorithm = config["algorithm"]
        steps = algorithm["eval_inner_steps"]
        transforms = config["data"]["datamodule"].get("transforms") or []
        return cls(
            network=config["model"]["torch_module"],
            learner=algorithm["learner"],
            inner_loop=config["inner_loop"],
            transforms=(transforms["test"] or []) if isinstance(transforms, Mapping) else transforms,
            input_shape=list(example.support_x.shape[2:]),
            num_outputs=num_outputs,
            steps=algorithm["num_inner_steps"] if steps is None else steps,
            data=data,
            batch_norm=batch_norm or "",
            brightness=float(example.support_x.float().mean()),
        )

    @classmethod
    def from_plain(cls, values: Any, trusted: Sequence[str] = ()) -> "Recipe":
        """Return the recipe that `plain` gave, and that a stranger may have written.

        Args:
            values: those of a checkpoint.
            trusted: packages whose classes it may name beside this project's.

        Raises:
            ValueError: if something is missing, or of another kind.
            SettingError: if it names code that is neither of this project nor trusted, or asks for too much memory.
        """
        if not isinstance(values, Mapping):
            raise ValueError("there is no recipe")
        require_few(values, most=10_000)
        recipe = cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})
        if max(recipe.input_shape, default=0) > _LARGEST_SIDE or recipe.steps > _MOST_STEPS:
            raise ValueError("the recipe's inputs or steps are more than anybody adapts with")
        known = (*_KNOWN, *trusted)
        _require_harmless([recipe.network, recipe.learner, recipe.inner_loop], known, _LARGEST)
        # A transform may make more of an image than memory holds.
        _require_harmless(recipe.transforms, known, max(1024, 16 * max(recipe.input_shape, default=1)))
        return recipe

    def plain(self) -> dict[str, Any]:
        """Return the values as a checkpoint can hold them."""
        return asdict(self)

    @property
    def of_texts(self) -> bool:
        """Return whether an input is made of a text, not of an image."""
        return bool(self.transforms) and self.transforms[0].get("_target_") == "lightning_maml.data.HashedWords"

    def make_learner(self) -> Learner:
        """Return the learner around its network, with weights of no meaning; raises `SettingError`."""
        shape = tuple(self.input_shape)
        network: nn.Module = _build(self.network, input_shape=shape, num_outputs=self.num_outputs)
        materialize(network, torch.zeros(2, *shape))
        normalize_by(network, "running" if self.batch_norm == "running" else "batch")
        learner: Learner = _build(self.learner, network=network)
        return learner

    def make_inner_loop(self) -> InnerLoop:
        """Return how it adapts; raises `SettingError`."""
        loop: InnerLoop = _build(self.inner_loop)
        return loop

    def make_transforms(self) -> list[Any]:
        """Return what makes an input of an image; raises `SettingError`."""
        return [_build(node) for node in self.transforms]

    def fits(self, weights: Mapping[str, Tensor]) -> bool:
        """Return whether these are the weights of its learner, told before any memory is taken for it."""
        with torch.device("meta"):
            wanted = self.make_learner().state_dict()
        return {name: value.shape for name, value in weights.items()} == {n: v.shape for n, v in wanted.items()}


def _build(node: Node, **arguments: Any) -> Any:
    if "_target_" not in node:
        raise SettingError("ckpt", node, "the checkpoint has no _target_ there")
    try:
        return hydra.utils.instantiate(node, **arguments)
    except Exception as error:  # of anything, built of anything
        raise SettingError("ckpt", node["_target_"], f"it cannot be built: {one_line(error)[:300]}") from error


def _require_harmless(node: Any, known: Sequence[str], largest: float) -> None:
    """Check that a node holds plain values, none of which runs code of others or asks for too much memory.

    `_target_` may name whatever Python can import. `${…}` may compute such a name, and has no place in what was written
    resolved.
    """
    if isinstance(node, str):
        if "${" in node:
            raise SettingError("ckpt", node, "the checkpoint asks for something to be computed; none of ours does")
    elif isinstance(node, Mapping):
        target = node.get("_target_")
        if target is not None and not _is_known(str(target), known):
            raise SettingError(
                "ckpt",
                target,
                "the checkpoint names what is no class of this project (in this version), of torchvision's transforms "
                "or of torch's optimizers, and using it would run it; if you trust it, add trusted=[MODULE]",
            )
        for one in (*node.keys(), *node.values()):
            _require_harmless(one, known, largest)
    elif isinstance(node, list | tuple):
        for one in node:
            _require_harmless(one, known, largest)
    elif isinstance(node, int | float):
        if not -largest <= node < largest:
            raise SettingError("ckpt", node, f"the checkpoint asks for this number; it must be below {largest:,}")
    elif node is not None:
        raise SettingError("ckpt", type(node).__qualname__, "the checkpoint holds more than plain values")


def _is_known(target: str, known: Sequence[str]) -> bool:
    """Return whether it is a class that one of these packages defines: not what they have imported from elsewhere."""
    module, _, name = target.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), name, None) if _is_within(target, known) else None
    except (ImportError, ValueError):
        return False
    return isinstance(found, type) and _is_within(found.__module__, known)


def _is_within(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
