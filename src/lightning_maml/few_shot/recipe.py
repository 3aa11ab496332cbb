"""What a checkpoint says beside its weights, so that it can be adapted without the configuration of its run."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, get_origin

import hydra
import torch
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
    *("lightning_maml.data.HashedWords", "lightning_maml.data.hashed_words"),
    "torchvision.transforms",
    "torch.optim",
)


_LARGEST, _MOST_STEPS = 4096, 10_000  # side of an input; inner steps


@dataclass(frozen=True)
class Recipe:
    """How to build a learner and its inner loop, and how images become its inputs; plain values only. src/run.py writes
    one into its checkpoints; docs/library.md shows how to do so by hand.

    Attributes:
        network, learner, inner_loop: nodes with a `_target_`, as Hydra's configurations have them.
        batch_norm: what the network's batch norms normalize by, see `normalize_by`; empty for networks without.
        transforms: a node for each, applied to an image one after another.
        input_shape: channels, height, width of one input.
        num_outputs: outputs of the head that the network was built with.
        steps: inner steps in evaluation.
        data: the dataset's name, for people.
        brightness: the mean of the inputs of a meta-training task; infinity where it is not known.
    """

    network: dict[str, Any]
    learner: dict[str, Any]
    inner_loop: dict[str, Any]
    transforms: list[dict[str, Any]]
    input_shape: list[int]
    num_outputs: int
    steps: int
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
            transforms=transforms["test"] if isinstance(transforms, Mapping) else transforms,
            input_shape=list(example.support_x.shape[2:]),
            num_outputs=num_outputs,
            steps=algorithm["num_inner_steps"] if steps is None else steps,
            data=data,
            batch_norm=batch_norm or "",
            brightness=float(example.support_x.float().mean()),
        )

    @property
    def of_texts(self) -> bool:
        """Whether an input is made of a text, not of an image."""
        first = self.transforms[0] if self.transforms else None
        return isinstance(first, Mapping) and first.get("_target_") == "lightning_maml.data.HashedWords"

    @classmethod
    def from_plain(cls, values: Any) -> "Recipe":
        """What `plain` gave.

        Raises:
            ValueError: if something is missing or of another kind.
        """
        if not isinstance(values, Mapping):
            raise ValueError("there is no recipe")
        values = {"batch_norm": "", "brightness": math.inf, **values}  # older ones have none
        for name, kind in _KINDS.items():
            if not isinstance(values.get(name), kind):
                raise ValueError(f"the recipe's {name} is {values.get(name)!r}")
        require_few(values, most=10_000)
        if not all(isinstance(side, int) and 0 < side <= _LARGEST for side in values["input_shape"]):
            raise ValueError(f"the recipe's input_shape is {values['input_shape']!r}")
        if not 0 <= values["steps"] <= _MOST_STEPS:
            raise ValueError(f"the recipe's steps are {values['steps']}")
        return cls(**{name: values[name] for name in _KINDS})

    def plain(self) -> dict[str, Any]:
        """As values that a checkpoint can hold."""
        return asdict(self) | {"transforms": list(self.transforms), "input_shape": list(self.input_shape)}

    def make_learner(self, trusted: Sequence[str] = ()) -> Learner:
        """The learner around its network, with weights of no meaning.

        Raises:
            SettingError: if it names something that is not of this project and not `trusted`.
        """
        shape = tuple(self.input_shape)
        network: nn.Module = _build(self.network, trusted, input_shape=shape, num_outputs=self.num_outputs)
        materialize(network, torch.zeros(2, *shape))
        normalize_by(network, "running" if self.batch_norm == "running" else "batch")
        learner: Learner = _build(self.learner, trusted, network=network)
        return learner

    def make_inner_loop(self, trusted: Sequence[str] = ()) -> InnerLoop:
        """How it adapts; raises as `make_learner`."""
        loop: InnerLoop = _build(self.inner_loop, trusted)
        return loop

    def make_transforms(self, trusted: Sequence[str] = ()) -> list[Any]:
        """From an image to an input; raises as `make_learner`."""
        _require_below(max(1024, 16 * max(self.input_shape)), self.transforms)
        return [_build(node, trusted) for node in self.transforms]

    def fits(self, weights: Mapping[str, Tensor], trusted: Sequence[str] = ()) -> bool:
        """Whether these are the weights of its learner, told before any memory is taken for it."""
        with torch.device("meta"):
            wanted = self.make_learner(trusted).state_dict()
        return {name: value.shape for name, value in weights.items()} == {n: v.shape for n, v in wanted.items()}


_KINDS: dict[str, type] = {field.name: get_origin(field.type) or field.type for field in fields(Recipe)}  # type: ignore[misc]


def _require_below(largest: int, node: Any) -> None:
    """Refuse a transform that would make more of an image than memory holds, or any other number as large."""
    if isinstance(node, Mapping | list | tuple):
        for one in node.values() if isinstance(node, Mapping) else node:
            _require_below(largest, one)
    elif isinstance(node, int | float) and not -largest <= node <= largest:
        raise SettingError("ckpt", node, f"the checkpoint's transforms ask for it; the most is {largest:,} here")


def _build(node: Mapping[str, Any], trusted: Sequence[str], **arguments: Any) -> Any:
    _require_known(node, (*_KNOWN, *trusted))
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise SettingError("ckpt", node, "the checkpoint has no _target_ there")
    try:
        return hydra.utils.instantiate(dict(node), **arguments)
    except Exception as error:  # of anything, built of anything
        raise SettingError("ckpt", node["_target_"], f"it cannot be built: {one_line(error)[:300]}") from error


def _require_known(node: Any, known: Sequence[str]) -> None:
    """Refuse anything that would run code of others'. `_target_` may name whatever Python can import, and `${…}`, which
    has no place in what was written resolved, may make one."""
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
        for key, value in node.items():
            _require_known(key, known)
            _require_known(value, known)
    elif isinstance(node, list | tuple):
        for value in node:
            _require_known(value, known)
    elif node is not None and not (isinstance(node, int | float) and not abs(node) >= 2**63):
        raise SettingError("ckpt", type(node).__qualname__, "the checkpoint holds more than plain values")


def _is_known(target: str, known: Sequence[str]) -> bool:
    """Whether it is a class that one of these packages defines: not what they have imported from elsewhere."""
    if not _within(target, known):
        return False
    try:
        found: Any = importlib.import_module(target.rpartition(".")[0])
        found = getattr(found, target.rpartition(".")[2], None)
    except (ImportError, ValueError):
        return False
    return isinstance(found, type) and _within(found.__module__, known)


def _within(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
