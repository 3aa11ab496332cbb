"""A classifier of a few classes, made by adaptation."""

import copy
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_maml.episodes import Task
from lightning_maml.errors import SettingError
from lightning_maml.few_shot.devices import Device, find_device
from lightning_maml.few_shot.preprocessing import ImageLike, Preprocessing
from lightning_maml.few_shot.recipe import Recipe
from lightning_maml.files import replacing
from lightning_maml.inner_loops import InnerLoop, Learner
from lightning_maml.training.checkpoint_files import load_whole, reading, require_finite

Label = str | int
_BATCH = 256  # images at once, where that makes no difference


class Prediction(NamedTuple):
    """What a classifier says of one image.

    Attributes:
        label: the likeliest class.
        probability: its probability.
        probabilities: of each class.
    """

    label: Label
    probability: float
    probabilities: dict[Label, float]


class Classifier(nn.Module):
    """A learner at its adapted parameters φ_K: p(class | x) = softmax over the classes of predict(φ_K, x).

    Made by `FewShotLearner.adapt`, or `Classifier.load`. May be called in any number of threads at once.

    Attributes:
        classes: the labels, in the order of the probabilities.
    """

    def __init__(
        self,
        recipe: Recipe,
        learner: Learner,
        classes: Sequence[Label],
        steps: int,
        *,
        invert: bool = False,
        trusted: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if learner.any_ways:
            learner.ways = len(classes)
        self.classes = list(classes)
        self.learner = learner.eval()
        self._recipe = recipe
        self._steps = steps
        self._invert = invert
        self._preprocessing = Preprocessing(recipe.input_shape, recipe.make_transforms(trusted), invert=invert)
        self._adapted: dict[str, Tensor] = {}
        self._together: tuple[Task, InnerLoop] | None = None
        self._lock = threading.Lock()  # a call exchanges the parameters of its modules for φ_K, and puts them back

    def keep(self, adapted: Mapping[str, Tensor], support: Task | None = None, loop: InnerLoop | None = None) -> None:
        """Take φ_K; with a support set and a loop, images that are classified together are normalized together."""
        self._adapted = dict(adapted)
        self._together = None if support is None or loop is None else (support, loop)

    def train(self, mode: bool = True) -> "Classifier":
        """Nothing: it has been trained, and its batch norm keeps the statistics that it has."""
        return self

    def _apply(self, change: Callable[[Tensor], Tensor], recurse: bool = True) -> "Classifier":
        """What `to(device)` and the like do, for φ_K and the support set too."""
        super()._apply(change, recurse)  # type: ignore[no-untyped-call]
        self._adapted = {name: change(value) for name, value in self._adapted.items()}
        if self._together is not None:
            support, loop = self._together
            x, y = change(support.support_x), support.support_y.to(change(support.support_x).device)
            self._together = Task(x, y, x, y), loop
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()

    @property
    def transductive(self) -> bool:
        """Whether a prediction depends on the other images of its batch."""
        return self._together is not None

    def inputs(self, images: Sequence[ImageLike]) -> Float[Tensor, "images channels height width"]:
        """Images as the network takes them, prepared as in training; raises `ImageFileError`."""
        return self._preprocessing(images).to(next(self.learner.parameters()).device)

    def forward(self, x: Float[Tensor, "images channels height width"]) -> Float[Tensor, "images classes"]:
        """The probability of each class for prepared inputs."""
        with self._lock:
            return self._probabilities(x)

    def classify(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """What is on each image; raises `ImageFileError`."""
        size = max(len(images), 1) if self.transductive else _BATCH
        batches = [images[first : first + size] for first in range(0, len(images), size)]
        rows = [row for batch in batches for row in self(self.inputs(batch)).tolist()]
        return [
            Prediction(label, probability, dict(zip(self.classes, row, strict=True)))
            for row in rows
            for probability, label in [max(zip(row, self.classes, strict=True), key=lambda pair: pair[0])]
        ]

    def _probabilities(self, x: Tensor) -> Tensor:
        y = x.new_zeros(x.shape[0], dtype=torch.int64)
        adapted, task = self._adapted, Task(x[:1], y[:1], x, y)
        if self._together is not None:
            support, loop = self._together
            task = Task(support.support_x, support.support_y, x, y)
            if not self.learner.adapts_by_gradient:  # such methods encode support and query set together
                adapted = loop.adapt(self.learner, task, steps=self._steps)
        logits = self.learner.answer(adapted, task, self._steps)
        return logits[:, : len(self.classes)].softmax(dim=1)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the classifier, as tensors and plain values.

        Raises:
            SettingError: if it is transductive: it would need the support set at every call.
        """
        self._require_own_statistics("classifier.pt")
        with self._lock:
            state = copy.deepcopy(self.learner.state_dict())
        values = {
            "recipe": self._recipe.plain(),
            "classes": self.classes,
            "steps": self._steps,
            "invert": self._invert,
            "learner": state,
            "adapted": self._adapted,
        }
        content = io.BytesIO()  # a full disk is an OSError then, where torch's writer raises what says nothing
        torch.save(values, content)
        with replacing(path, "wb") as file:
            file.write(content.getbuffer())

    @classmethod
    def load(cls, path: str | PathLike[str], trusted: Sequence[str] = (), *, device: Device = "cpu") -> "Classifier":
        """What `save` wrote, on a device; as safe as `FewShotLearner.load`.

        Raises:
            SettingError: if the file is missing or was not written by `save`, names other code, or there is no such
                device.
        """
        place = find_device(device)
        name = fspath(path)
        with reading("classifier", name, "classifier that adapt.py saved", "adapt.py saves its own as classifier.pt"):
            values: dict[str, Any] = load_whole(name)
            if not isinstance(values["steps"], int) or not all(isinstance(one, str | int) for one in values["classes"]):
                raise ValueError("classifier")
            require_finite(values["learner"] | values["adapted"])
            recipe = Recipe.from_plain(values["recipe"])
            learner = recipe.make_learner(trusted)
            classifier = cls(
                recipe, learner, values["classes"], values["steps"], invert=values["invert"], trusted=trusted
            )
            _take_statistics(learner, values["learner"])
            learner.load_state_dict(values["learner"])
            classifier.keep(values["adapted"])
        return classifier.to(place)

    def export_onnx(self, path: str | PathLike[str]) -> float:
        """Write the classifier as ONNX, prepared inputs to probabilities for any number of images, and compare it with
        PyTorch's output on random inputs. Returns the largest difference of a probability.

        Raises:
            SettingError: if it is transductive, ONNX's packages are not installed, or the outputs differ.
        """
        from lightning_maml.few_shot.onnx_export import export  # its packages are optional

        self._require_own_statistics("classifier.onnx")
        classifier = copy.deepcopy(self).cpu()  # whose inputs the exporter makes
        return export(classifier, tuple(self._recipe.input_shape), Path(path))

    def _require_own_statistics(self, what: str) -> None:
        if self.transductive:
            raise SettingError(
                "transductive", True, f"{what} must not depend on which images come together; leave transductive out"
            )


def _take_statistics(learner: Learner, state: Mapping[str, Tensor]) -> None:
    """Make room for the statistics of batch norm that were kept."""
    for name, module in learner.named_modules():
        if f"{name}.running_mean" in state:
            module.running_mean = state[f"{name}.running_mean"]
            module.running_var = state[f"{name}.running_var"]
            module.track_running_stats = True
