"""A trained learner, to be adapted to anybody's classes."""

import logging
from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any, Literal

import torch

from lightning_maml.arguments import Natural, require
from lightning_maml.episodes import Task
from lightning_maml.errors import SettingError, one_line
from lightning_maml.few_shot.classifier import Classifier, Label
from lightning_maml.few_shot.preprocessing import ImageLike, Preprocessing
from lightning_maml.few_shot.recipe import Recipe
from lightning_maml.few_shot.statistics import freeze_statistics
from lightning_maml.files import replacing
from lightning_maml.inner_loops import InnerLoop, Learner
from lightning_maml.inner_loops.failures import copied
from lightning_maml.training.checkpoint_files import load_whole, reading, require_finite

log = logging.getLogger(__name__)

Device = str | torch.device
_PREFIX = "learner."  # of the weights in a checkpoint of Lightning's


class FewShotLearner:
    """What a checkpoint has learned. It is never changed: `adapt` works on a copy, in any number of threads at once.

    Args:
        recipe: how it was built.
        learner: with its weights.
        inner_loop: how it adapts.
    """

    def __init__(self, recipe: Recipe, learner: Learner, inner_loop: InnerLoop) -> None:
        self.recipe = recipe
        self._learner = learner.eval()
        self._inner_loop = inner_loop

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        trusted: Sequence[str] = (),
        *,
        recipe: Recipe | None = None,
        device: Device = "cpu",
    ) -> "FewShotLearner":
        """Return what a checkpoint of an `OuterLoop` has learned.

        Only tensors and plain values are read, and only classes of this project, of torchvision's transforms, of
        torch's optimizers and of `trusted` packages are built: a checkpoint cannot run code of its own.

        Args:
            path: the checkpoint.
            trusted: packages whose classes it may name besides.
            recipe: what a checkpoint lacks that was not written by src/run.py.
            device: where to work: "cpu", "cuda", "cuda:1", …; "auto" is a GPU, if there is one.

        Raises:
            SettingError: if there is no such file, it is no checkpoint, it does not say how to prepare images, it names
                other code, or there is no such device.
        """
        place, name = _find_device(device), fspath(path)
        with reading("ckpt", name, "checkpoint of a run", "a run keeps its own in checkpoints/best.ckpt"):
            checkpoint: dict[str, Any] = load_whole(name)
            plain = checkpoint.get("recipe")
            state = {str(key).removeprefix(_PREFIX): value for key, value in checkpoint["state_dict"].items()}
        try:
            recipe = recipe or Recipe.from_plain(plain, trusted)
        except SettingError:
            raise
        except ValueError as error:
            raise SettingError(
                "ckpt",
                name,
                "it does not say how its network is built and its images are prepared; train it again by src/run.py, "
                "which writes that into its checkpoints, or load(…, recipe=Recipe(…)), as in docs/library.md",
            ) from error
        if not recipe.of_texts and (len(recipe.input_shape) != 3 or recipe.input_shape[0] not in (1, 3)):
            reason = "it was not trained on images, grey or in colour, nor on texts; give one that was"
            raise SettingError("ckpt", name, reason)
        try:
            if not trusted and not recipe.fits(state):
                raise ValueError("other shapes")
            learner = recipe.make_learner()
            require_finite(state, learner.state_dict())
            learner.load_state_dict(state)
        except SettingError:
            raise
        except (RuntimeError, AttributeError, ValueError) as error:
            reason = f"its weights do not fit the network that it names, or are no numbers ({one_line(error)[:200]})"
            raise SettingError("ckpt", name, f"{reason}; give another") from error
        return cls(recipe, learner.to(place), recipe.make_inner_loop())

    def save(self, path: str | PathLike[str]) -> None:
        """Write a checkpoint of the weights and the recipe alone, without what training needs: one to give away."""
        state = {f"{_PREFIX}{name}": value for name, value in self._learner.state_dict().items()}
        with replacing(path, "wb") as file:
            torch.save({"state_dict": state, "recipe": self.recipe.plain()}, file)

    def adapt(
        self,
        images: Sequence[ImageLike],
        labels: Sequence[Label],
        *,
        steps: int | None = None,
        transductive: bool = False,
        invert: bool | Literal["auto"] = "auto",
    ) -> Classifier:
        """Return a classifier of the classes that these images show, or texts belong to.

        Args:
            images: the support set: files, images of Pillow's, arrays, or inputs; texts, if trained on them.
            labels: the class of each, a text or a number.
            steps: inner steps; None for as many as the checkpoint was evaluated with.
            transductive: normalize images that are classified together by their common statistics, as the papers do;
                if not, by those of the support set, so that a prediction depends on nothing but its image.
            invert: turn dark into bright first, for ink on paper where training saw chalk on a board; "auto" does so
                where the images are clearly the opposite of what training saw, and logs it.

        Raises:
            ImageFileError: if a file is no image.
            SettingError: if there are fewer than two classes, or more than the network has outputs.
        """
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images, but {len(labels)} labels")
        labels = [_plain(label) for label in labels]
        classes = sorted(set(labels), key=lambda label: (isinstance(label, str), label))
        self._require_ways(len(classes))
        steps = self.recipe.steps if steps is None else steps
        require("steps", steps, Natural)
        if steps and not self._learner.adapts_by_gradient:
            raise SettingError("steps", steps, "this method does not adapt by gradient; give 0")
        require("invert", invert, bool | Literal["auto"])
        preprocessing = self._preprocessing(images, invert)
        learner: Learner = copied(self._learner)
        if learner.any_ways:
            learner.ways = len(classes)
        x = preprocessing(images).to(next(learner.parameters()).device)
        y = torch.tensor([classes.index(label) for label in labels], device=x.device)
        # Where a method encodes support and query set together, the support set twice has its own statistics.
        support = Task(x, y, x, y)
        adapted = self._inner_loop.adapt(learner, support, steps=steps)
        try:
            require_finite(adapted)
        except ValueError as error:
            raise SettingError("steps", steps, f"adaptation has diverged ({error}); give fewer") from error
        if not transductive:
            freeze_statistics(learner, lambda: learner.answer(adapted, support, steps))
        together = (support, self._inner_loop) if transductive else None
        return Classifier(self.recipe, learner, preprocessing, classes, steps, adapted, together)

    def _preprocessing(self, images: Sequence[ImageLike], invert: bool | Literal["auto"]) -> Preprocessing:
        """Return what prepares images like these; "auto" looks at them."""
        shape, transforms = self.recipe.input_shape, self.recipe.make_transforms()
        plain, inverse = (Preprocessing(shape, transforms, invert=inverts) for inverts in (False, True))
        if invert != "auto":
            return inverse if invert else plain
        if not plain.looks_inverted(images, self.recipe.brightness):
            return plain
        log.info("dark and bright are exchanged, as training saw the opposite; invert=false leaves them alone")
        return inverse

    def _require_ways(self, ways: int) -> None:
        if ways < 2:
            raise SettingError("support", f"{ways} class", "there is nothing to tell apart; give two classes or more")
        if ways > self.recipe.num_outputs and not self._learner.any_ways:
            raise SettingError(
                "support",
                f"{ways} classes",
                f"this checkpoint's head tells {self.recipe.num_outputs} apart; give no more, or a checkpoint of "
                "algorithm=protonet, r2d2 or unicorn_maml, which take any number",
            )


def _plain(label: object) -> Label:
    """Return a label as a text or a number, also where it comes from an array or a tensor."""
    plain = label.item() if hasattr(label, "item") else label
    if not isinstance(plain, str | int):
        raise ValueError(f"a label is a text or a whole number, not {plain!r}")
    return str(plain) if isinstance(plain, str) else int(plain)


def _find_device(device: Device) -> torch.device:
    """Return the device of that name; "auto" is a GPU of CUDA's if there is one, else the CPU.

    Raises:
        SettingError: if this machine has no such device, or it holds no values, as PyTorch's "meta".
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()  # PyTorch knows names of devices that are not there
    except (RuntimeError, AssertionError, TypeError) as error:  # by which PyTorch says so
        raise SettingError("device", device, "this machine has no such device; give auto, cpu or cuda") from error
    return found
