"""The page on using the project as a library does what it says, and what may go wrong there is told in one line."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from torchmeta.transforms import Categorical
from torchvision.transforms import ToTensor

from lightning_maml.algorithms import MAML
from lightning_maml.data import Glyphs, MetaDataModule
from lightning_maml.errors import SettingError
from lightning_maml.few_shot import FewShotLearner, Recipe
from lightning_maml.inner_loops import HigherLoop
from lightning_maml.models import Conv4
from lightning_maml.training import OuterLoop
from tests.paths import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/library.md").read_text(), re.DOTALL)
SMALLER = {
    "num_filters": ("32", "4"),
    "max_epochs": ("5", "1"),
    "batches": ('{"train": 100, "val": 10, "test": 50}', "1"),
}


def run(code: str) -> dict[str, Any]:
    """As a notebook in the project's root does; returns its names."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, str(ROOT / "notebook.py"), "exec"), names)
    return names


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    return tmp_path


def datamodule(**settings: Any) -> MetaDataModule:
    splits = {split: partial(Glyphs, **{f"meta_{split}": True}) for split in ("train", "val", "test")}
    shots = {"support": 1, "query": 1}
    return MetaDataModule(splits, shots, nway=2, batch_size=1, batches=1, transforms=[ToTensor()], **settings)


@pytest.mark.usefixtures("in_folder")
def test_the_page_trains_tests_and_adapts() -> None:
    code = BLOCKS[0]
    for name, (now, less) in SMALLER.items():
        code, count = re.subn(rf'({name}"?[=:] ?){re.escape(now)}', rf"\g<1>{less}", code)
        assert count == 1
    names = run(code)
    assert "metatest/outer_accuracy" in names["trainer"].callback_metrics
    assert names["learner"].recipe == names["recipe"]

    # A checkpoint that says nothing of how its network is built, as a Trainer alone writes it.
    path = names["best"].best_model_path
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {"recipe": None}, "bare.ckpt")
    with pytest.raises(SettingError, match=r"^ckpt=bare\.ckpt: .*recipe=Recipe"):
        FewShotLearner.load("bare.ckpt")
    again = FewShotLearner.load("bare.ckpt", recipe=names["recipe"])
    support, labels = list(names["support"]), names["labels"].tolist()
    one, other = (learner.adapt(support, labels) for learner in (again, names["learner"]))
    torch.testing.assert_close(one(one.inputs(support)), other(other.inputs(support)), rtol=0, atol=0)


def test_the_pages_notebook_makes_the_yamls_objects(in_folder: Path) -> None:
    names = run(BLOCKS[1])
    assert isinstance(names["trainer"], pl.Trainer) and names["data"].input_shape == (1, 28, 28)
    assert str(names["cfg"].train.checkpoint.best.dirpath) == "notebook_run/checkpoints"
    assert list(in_folder.iterdir()) == []


def test_without_a_target_transform_classes_are_numbered() -> None:
    for one, other in zip(
        datamodule(cache="none").example("train"),
        datamodule(cache="none", target_transform=Categorical(num_classes=2)).example("train"),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_a_trainer_that_could_not_test_does_not_train(tmp_path: Path) -> None:
    adam, sgd = partial(torch.optim.Adam, lr=1e-3), partial(torch.optim.SGD, lr=0.4)
    algorithm = OuterLoop(MAML(Conv4(input_shape=(1, 28, 28), num_outputs=2, num_filters=2)), HigherLoop(sgd), adam)
    before = {name: value.clone() for name, value in algorithm.state_dict().items()}
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, logger=False)
    with pytest.raises(SettingError, match=r"Trainer\(inference_mode=False\)$"):
        trainer.fit(algorithm, datamodule())
    assert all(torch.equal(value, before[name]) for name, value in algorithm.state_dict().items())


def test_a_recipe_by_hand_takes_tuples() -> None:
    network = {"_target_": "lightning_maml.models.Conv4"}
    recipe = Recipe(network, {"_target_": "lightning_maml.algorithms.MAML"}, {}, (), (1, 28, 28), 5, 1)  # type: ignore[arg-type]
    assert Recipe.from_plain(recipe.plain()).input_shape == [1, 28, 28]
