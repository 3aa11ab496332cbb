"""A checkpoint builds this project's classes and no others, whatever it says."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_maml.errors import SettingError
from lightning_maml.few_shot import Classifier, FewShotLearner, Recipe
from tests.unit.few_shot.test_classifier import learner_of, recipe_of


def saved(path: Path, **changes: Any) -> Path:
    learner_of().save(path)
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {"recipe": checkpoint["recipe"] | changes}, path)
    return path


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    images = [torch.rand(1, 8, 8) for _ in range(4)]
    one, other = learner_of(), FewShotLearner.load(saved(tmp_path / "a.ckpt"))
    assert other.recipe == one.recipe
    classifiers = [learner.adapt(images, ["a", "a", "b", "b"]) for learner in (one, other)]
    assert torch.equal(classifiers[0](images[0][None]), classifiers[1](images[0][None]))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "hydra.utils.get_method",
        "hydra.utils.instantiate",
        "torchvision.datasets.FakeData",
        "lightning_maml.data.Glyphs",
        "lightning_maml.training.AtomicCheckpointIO",
        "lightning_maml.models.conv4.nn.Linear",  # what our module has imported
        "lightning_maml.errors.SettingError",
        "lightning_maml.models.os.system",
        "torchvision.transforms.functional.to_tensor",  # not a class
        "torch.hub.load",
        "lightning_maml.modelsevil.Net",
        "torch.optim..SGD",
        "torchvision.transforms.",
    ],
)
@pytest.mark.parametrize("place", ["network", "learner", "inner_loop", "transforms", "nested"])
def test_code_of_others_is_refused_before_it_is_run(tmp_path: Path, target: str, place: str) -> None:
    node = {"_target_": target, "command": f"touch {tmp_path}/ran", "_partial_": place == "nested"}
    plain = recipe_of().plain()
    changes: dict[str, Any] = {place: node}
    if place == "transforms":
        changes = {"transforms": [node]}
    if place == "nested":
        changes = {"inner_loop": {**plain["inner_loop"], "inner_optimizer": {"a": [node]}}}
    path = saved(tmp_path / "evil.ckpt", **changes)
    images = [torch.rand(1, 8, 8) for _ in range(4)]
    with pytest.raises(Exception) as raised:  # noqa: PT011  # a name that does not exist is refused by Hydra
        FewShotLearner.load(path).adapt(images, ["a", "a", "b", "b"])
    assert isinstance(raised.value, SettingError) and "ckpt=" in str(raised.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("where", ["value", "key", "list"])
def test_what_would_compute_something_is_refused(tmp_path: Path, where: str) -> None:
    """OmegaConf's own resolvers can make a node of a text, after it was looked at."""
    text = f"${{oc.create:{{_target_:pathlib.Path.touch,self:{tmp_path}/ran}}}}"
    added: Any = {"value": {"x": text}, "key": {text: 1}, "list": {"x": [[text]]}}[where]
    path = saved(tmp_path / "evil.ckpt", inner_loop=recipe_of().inner_loop | added)
    with pytest.raises(SettingError, match="ckpt=.*asks for something to be computed"):
        FewShotLearner.load(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"input_shape": 3},
        {"input_shape": ["1", 8, 8]},
        {"network": None},
        {"network": {"_target_": "torchvision.transforms.ToTensor"}},
        {"network": {"_target_": "lightning_maml.models.Gone"}},
        {"steps": "x"},
        {"transforms": {}},
    ],
    ids=str,
)
def test_a_malformed_recipe_is_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="^ckpt="):
        FewShotLearner.load(saved(tmp_path / "a.ckpt", **changes))


@pytest.mark.parametrize("content", [torch.zeros(3), {"state_dict": {1: 2}}, {"state_dict": 5}, [1]], ids=str)
def test_a_file_of_torchs_that_is_no_checkpoint(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(SettingError, match="^ckpt="):
        FewShotLearner.load(tmp_path / "a.ckpt")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": {}, "recipe": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(SettingError, match="it is no checkpoint of a run"):
        FewShotLearner.load(tmp_path / "evil.ckpt")
    with pytest.raises(SettingError, match="it is no classifier that adapt.py saved"):
        Classifier.load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


def test_trusted_modules_may_be_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", transforms=[{"_target_": "fractions.Fraction"}])
    with pytest.raises(SettingError, match=r"ckpt=fractions.Fraction: .*trusted=\[MODULE\]"):
        FewShotLearner.load(path).adapt([torch.rand(1, 8, 8)] * 2, ["a", "b"])
    FewShotLearner.load(path, trusted=["fractions"]).adapt([torch.rand(1, 8, 8)] * 2, ["a", "b"])


NEEDED = [field.name for field in dataclasses.fields(Recipe) if field.default is dataclasses.MISSING]


@pytest.mark.parametrize("missing", NEEDED)
def test_a_checkpoint_that_does_not_say_how_images_are_prepared(tmp_path: Path, missing: str) -> None:
    path = saved(tmp_path / "a.ckpt")
    checkpoint = torch.load(path)
    del checkpoint["recipe"][missing]
    torch.save(checkpoint, path)
    with pytest.raises(SettingError, match="does not say how its network is built and its images are prepared"):
        FewShotLearner.load(path)
    torch.save({"state_dict": checkpoint["state_dict"]}, path)
    with pytest.raises(SettingError, match="train it again"):
        FewShotLearner.load(path)


def test_weights_of_another_network(tmp_path: Path) -> None:
    network = {**recipe_of().network, "num_filters": 5}
    with pytest.raises(SettingError, match="its weights do not fit"):
        FewShotLearner.load(saved(tmp_path / "a.ckpt", network=network))


def test_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(SettingError, match="it is no checkpoint"):
        FewShotLearner.load(tmp_path / "text.ckpt")
    with pytest.raises(SettingError, match="there is no such file"):
        FewShotLearner.load(tmp_path / "nowhere.ckpt")


def nested(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = {"_target_": "torchvision.transforms.ToTensor"}
    for _ in range(depth):
        node = {"_target_": "torchvision.transforms.Compose", "transforms": [node]}
    return node


def itself() -> dict[str, Any]:
    node = nested(1)
    node["transforms"].append(node)
    return node


@pytest.mark.parametrize(
    "changes",
    [
        {"transforms": [nested(150)]},
        {"transforms": [nested(45)]},
        {"transforms": [itself()]},
        {"transforms": [{"_target_": "torchvision.transforms.Resize", "size": [4000, 4000]}]},
        {"transforms": [{"_target_": "torchvision.transforms.Resize", "size": [400, 400]}]},
        {"transforms": [{"_target_": "torchvision.transforms.Resize", "size": "x"}]},
        {"transforms": [{"_target_": "torchvision.transforms.FiveCrop", "size": 4}]},
        {"transforms": [{"_target_": "torchvision.transforms.Lambda", "lambd": 3}]},
        {"transforms": [{"_target_": "torchvision.transforms.Normalize", "mean": float("nan"), "std": 1}]},
        {"transforms": [5]},
        {"network": [1]},
        {"input_shape": [1, 10**6, 10**6]},
        {"steps": 10**9},
        {"num_outputs": 10**9},
        {"network": recipe_of().network | {"num_filters": 10**6}},
        {"network": recipe_of().network | {"num_filters": -1}},
        {"learner": {"_target_": "lightning_maml.models.Conv4"}},
        {"inner_loop": {"_target_": "lightning_maml.models.Conv4"}},
        {"inner_loop": {"_target_": "lightning_maml.inner_loops.HigherLoop", "inner_optimizer": 5}},
        {
            "inner_loop": recipe_of().inner_loop
            | {"inner_optimizer": {"_target_": "torch.optim.SGD", "lr": float("nan"), "_partial_": True}}
        },
    ],
    ids=lambda changes: str(changes)[:90],
)
def test_a_hostile_recipe_is_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    image = Image.new("L", (8, 8), 100)
    with pytest.raises(SettingError) as raised:
        FewShotLearner.load(saved(tmp_path / "a.ckpt", **changes)).adapt([image] * 4, ["a", "a", "b", "b"])
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    path = saved(tmp_path / "a.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    next(iter(checkpoint["state_dict"].values())).view(-1)[0] = value
    torch.save(checkpoint, path)
    with pytest.raises(SettingError, match="^ckpt=.*not finite"):
        FewShotLearner.load(path)
