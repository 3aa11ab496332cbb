"""A classifier of a few classes, made by adaptation."""

import copy
import io
import threading
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_maml.episodes import Task
from lightning_maml.errors import SettingError
from lightning_maml.few_shot.preprocessing import ImageLike, Preprocessing
from lightning_maml.few_shot.recipe import Recipe
from lightning_maml.few_shot.statistics import take_statistics
from lightning_maml.files import replacing
from lightning_maml.inner_loops import InnerLoop, Learner
from lightning_maml.training.checkpoint_files import load_whole, reading, require_finite

Label = str | int
_BATCH = 256  # images at once, where that makes no difference
_LOCK = threading.Lock()  # a call exchanges the parameters of its modules for φ_K, and puts them back


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

    Args:
        recipe: how the learner was built.
        learner: the adapted one.
        preprocessing: from an image to an input.
        classes: the labels, in the order of the probabilities.
        steps: K.
        adapted: φ_K.
        together: the support set and the inner loop, where images that are classified together are normalized together.
    """

    def __init__(
        self,
        recipe: Recipe,
        learner: Learner,
        preprocessing: Preprocessing,
        classes: Sequence[Label],
        steps: int,
        adapted: Mapping[str, Tensor],
        together: tuple[Task, InnerLoop] | None = None,
    ) -> None:
        super().__init__()
        self.classes = list(classes)
        self.learner = learner.eval()
        self._recipe = recipe
        self._preprocessing = preprocessing
        self._steps = steps
        self._adapted = _Tensors(adapted)
        self._support, self._loop = None, None
        if together is not None:
            support, self._loop = together
            self._support = _Tensors({"x": support.support_x, "y": support.support_y})

    @property
    def transductive(self) -> bool:
        """Return whether a prediction depends on the other images of its batch."""
        return self._support is not None

    def train(self, mode: bool = True) -> "Classifier":
        """Change nothing: training is over, and batch norm keeps its statistics."""
        return self

    def inputs(self, images: Sequence[ImageLike]) -> Float[Tensor, "images channels height width"]:
        """Return images as the network takes them, prepared as in training; raises `ImageFileError`."""
        return self._preprocessing(images).to(next(self.learner.parameters()).device)

    def forward(self, x: Float[Tensor, "images channels height width"]) -> Float[Tensor, "images classes"]:
        """Return the probability of each class for prepared inputs."""
        y = x.new_zeros(x.shape[0], dtype=torch.int64)
        with _LOCK:
            adapted, task = self._adapted.by_name(), Task(x[:1], y[:1], x, y)
            if self._support is not None and self._loop is not None:
                support = self._support.by_name()
                task = Task(support["x"], support["y"], x, y)
                if not self.learner.adapts_by_gradient:  # such methods encode support and query set together
                    adapted = self._loop.adapt(self.learner, task, steps=self._steps)
            logits = self.learner.answer(adapted, task, self._steps)
        return logits[:, : len(self.classes)].softmax(dim=1)

    def classify(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """Return what is on each image; raises `ImageFileError`."""
        size = max(len(images), 1) if self.transductive else _BATCH
        predictions = []
        for first in range(0, len(images), size):
            for row in self(self.inputs(images[first : first + size])).tolist():
                probabilities = dict(zip(self.classes, row, strict=True))
                label = max(probabilities, key=lambda label: probabilities[label])
                predictions.append(Prediction(label, probabilities[label], probabilities))
        return predictions

    def save(self, path: str | PathLike[str]) -> None:
        """Write the classifier, as tensors and plain values.

        Raises:
            SettingError: if it is transductive: it would need the support set at every call.
        """
        self._require_own_statistics("classifier.pt")
        with _LOCK:
            state = copy.deepcopy(self.learner.state_dict())
        values = {
            "recipe": self._recipe.plain(),
            "classes": self.classes,
            "steps": self._steps,
            "invert": self._preprocessing.invert,
            "learner": state,
            "adapted": self._adapted.by_name(),
        }
        content = io.BytesIO()  # a full disk is an OSError then, where torch's writer raises what says nothing
        torch.save(values, content)
        with replacing(path, "wb") as file:
            file.write(content.getbuffer())

    @classmethod
    def load(cls, path: str | PathLike[str], trusted: Sequence[str] = ()) -> "Classifier":
        """Return what `save` wrote, on the CPU; as safe as `FewShotLearner.load`.

        Raises:
            SettingError: if the file is missing or was not written by `save`, or names other code.
        """
        name = fspath(path)
        with reading("classifier", name, "classifier that adapt.py saved", "adapt.py saves its own as classifier.pt"):
            values: dict[str, Any] = load_whole(name)
            classes, steps, state = values["classes"], values["steps"], values["learner"]
            if not isinstance(steps, int) or not all(isinstance(one, str | int) for one in classes):
                raise ValueError("classifier")
            require_finite(state | values["adapted"])
            recipe = Recipe.from_plain(values["recipe"], trusted)
            learner = recipe.make_learner()
            take_statistics(learner, state)
            learner.load_state_dict(state)
            if learner.any_ways:
                learner.ways = len(classes)
            preprocessing = Preprocessing(recipe.input_shape, recipe.make_transforms(), invert=values["invert"])
            return cls(recipe, learner, preprocessing, classes, steps, values["adapted"])

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


class _Tensors(nn.Module):
    """Tensors by name that a module takes along to another device or type. PyTorch allows no dots in their names."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in tensors.items():
            self.register_buffer(name.replace(".", "/"), value)

    def by_name(self) -> dict[str, Tensor]:
        return {name.replace("/", "."): value for name, value in self.named_buffers()}
