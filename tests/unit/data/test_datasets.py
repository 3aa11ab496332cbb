"""Every YAML of conf/data composes, reads the format that torchmeta leaves behind, and trains."""

from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pytest
import pytorch_lightning as pl
import torch
from hydra.core.global_hydra import GlobalHydra

from lightning_maml.algorithms import MAML
from lightning_maml.data import MetaDataModule
from lightning_maml.data.sources.opening import create
from lightning_maml.data.store.preparation import HOMES, ensure_prepared
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import HigherLoop
from lightning_maml.models import TextCNN
from lightning_maml.shell import command_line  # noqa: F401  # registers the resolvers
from lightning_maml.training import OuterLoop
from tests.paths import ROOT
from tests.torchmeta_files import NAMES, write
from tests.unit.data.test_tasks import batches, same

REGRESSION = ("sinusoid", "harmonic", "sinusoid_line")
FIXED = {"glyph_fonts": 62}  # classes
TABLES = ("letter", "plants_margin", "plants_shape", "plants_texture")
SHAPES = {
    "omniglot": (1, 28, 28),
    **dict.fromkeys(("glyphs", "glyph_fonts"), (1, 28, 28)),
    **dict.fromkeys(("miniimagenet", "tieredimagenet", "cub", "image_folder"), (3, 84, 84)),
    "text_folder": (32,),
    **dict.fromkeys(("cifar_fs", "fc100"), (3, 32, 32)),
    "doublemnist": (1, 64, 64),
    "triplemnist": (1, 84, 84),
    "letter": (16,),
    **dict.fromkeys(TABLES[1:], (64,)),
    **dict.fromkeys(REGRESSION, (1,)),
}


def composed(name: str, root: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> MetaDataModule:
    """The datamodule of `data=NAME`, with tasks small enough for tiny files."""
    monkeypatch.setenv("DATASET_PATH", str(root))
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = hydra.compose("default", overrides=[f"data={name}"])
    small: dict[str, Any] = {"kshot": {"support": 1, "query": 2}, "batch_size": 2, "batches": 2}
    if name not in (*REGRESSION, *FIXED):
        small |= {"nway": 3, "cache_dir": str(root / "cache")}
    for key, value in (small | settings).items():
        cfg.data.datamodule[key] = value
    return hydra.utils.instantiate(cfg.data.datamodule)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf/data").glob("*.yaml")))
def test_every_yaml_reads_its_format_and_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in NAMES:
        write(name, tmp_path, samples=3)
    data = composed(name, tmp_path, monkeypatch)
    assert data.input_shape == SHAPES[name]
    assert data.num_outputs == (1 if name in REGRESSION else FIXED.get(name, 3))
    torch.manual_seed(0)
    network: torch.nn.Module = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(int(torch.tensor(data.input_shape).prod()), data.num_outputs)
    )
    if name == "text_folder":
        network = TextCNN(data.input_shape, data.num_outputs, embedding_size=4, num_filters=4)
    loop = HigherLoop(partial(torch.optim.SGD, lr=0.01))
    algorithm = OuterLoop(MAML(network), loop, partial(torch.optim.Adam, lr=0.01))
    before = [parameter.clone() for parameter in network.parameters()]
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        inference_mode=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(algorithm, datamodule=data)
    assert trainer.global_step == 2
    assert not any(torch.equal(one, other) for one, other in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_tasks_cached_and_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(name, tmp_path, samples=3)
    one, other = (composed(name, tmp_path, monkeypatch, cache=cache) for cache in ("disk", "none"))
    for split in ("train", "test"):
        assert same(*(batches(getattr(data, f"{split}_dataloader")()) for data in (one, other)))
    dtype = one._tasks["test"].samples.array.dtype  # type: ignore[attr-defined]
    assert dtype == (torch.float64 if name in TABLES else torch.int64 if name == "text_folder" else torch.uint8)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("image_folder", "text_folder", *TABLES)])
def test_where_a_download_fails_the_page_the_files_and_the_folder_are_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("File not found or corrupted.")

    for module in ("omniglot", "cifar100.base"):
        monkeypatch.setattr(f"torchmeta.datasets.{module}.download_url", gone)
    for module in ("miniimagenet", "tieredimagenet", "cub", "doublemnist", "triplemnist"):
        monkeypatch.setattr(f"torchmeta.datasets.{module}.download_file_from_google_drive", gone)
    data = composed(name, tmp_path, monkeypatch)
    with pytest.raises(SettingError) as error:
        data.setup()
    target = data._datasets["train"]["_target_"].rpartition(".")[2]
    folder = {"cifar_fs": "cifar100", "fc100": "cifar100"}.get(name, name)
    for part in ("datasets.train", HOMES[target].page, *HOMES[target].archives, str(tmp_path / folder)):
        assert part in str(error.value)


def test_a_table_whose_download_lacks_a_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    make = create(
        {"_target_": "torchmeta.datasets.Letter", "root": str(tmp_path), "download": True, "meta_train": True},
        "datasets.train",
    )
    with pytest.raises(SettingError, match="pip install scikit-learn pandas"):
        ensure_prepared(make, "datasets.train")


def test_half_of_sinusoid_line_are_lines() -> None:
    """A line's second differences vanish."""
    toy = {split: {"_target_": "torchmeta.toy.SinusoidAndLine"} for split in ("train", "val", "test")}
    data = MetaDataModule(datasets=toy, kshot={"support": 3, "query": 1}, batch_size=200, batches=1)
    (episodes,) = batches(data.train_dataloader())
    x, y = episodes.support_x.squeeze(-1), episodes.support_y.squeeze(-1)
    slopes = (y[:, 1:] - y[:, :1]) / (x[:, 1:] - x[:, :1])
    lines = ((slopes[:, 0] - slopes[:, 1]).abs() < 1e-3).sum()
    assert 70 <= int(lines) <= 130
