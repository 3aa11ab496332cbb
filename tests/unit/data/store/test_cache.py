"""The cache on disk: shared, never stale, never half there."""

import logging
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torchmeta.transforms import Rotation
from torchvision.transforms import Lambda, Normalize, Resize, ToTensor

from lightning_maml.data import Glyphs
from lightning_maml.data.sources.glyphs import render
from lightning_maml.errors import SettingError
from tests.paths import ROOT
from tests.unit.data.test_samples import images
from tests.unit.data.test_tasks import batches, glyphs, same


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def only_val(folder: Path, **settings: Any) -> Any:
    return glyphs(
        **{
            "datasets": dict.fromkeys(("train", "val", "test"), partial(Glyphs, meta_val=True)),
            "cache_dir": str(folder),
            **settings,
        }
    )


def test_a_second_run_reads_nothing_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one = batches(only_val(tmp_path).train_dataloader())
    assert caplog.text.count("cached 1,520 samples of 76 classes") == 3
    assert all(not name.startswith(".") for name in entries(tmp_path)) and len(entries(tmp_path)) == 3
    caplog.clear()
    two = batches(only_val(tmp_path).train_dataloader())
    assert caplog.text == "" and same(one, two)


@pytest.mark.parametrize(
    "change",
    [
        {"transforms": [Resize(20), ToTensor()]},
        {"class_augmentations": [Rotation([90])]},
        {"datasets": dict.fromkeys(("train", "val", "test"), partial(Glyphs, meta_test=True))},
    ],
)
def test_whatever_shapes_the_samples_has_an_entry_of_its_own(tmp_path: Path, change: dict[str, Any]) -> None:
    only_val(tmp_path).setup()
    before = {name for name in entries(tmp_path) if "-train-" in name}
    only_val(tmp_path, **change).setup()
    assert len({name for name in entries(tmp_path) if "-train-" in name} - before) == 1


def test_a_trailing_normalize_shares_the_entry_and_nothing_about_tasks_matters(tmp_path: Path) -> None:
    only_val(tmp_path).setup()
    before = entries(tmp_path)
    only_val(tmp_path, transforms=[ToTensor(), Normalize([0.1], [0.2])], nway=3, seed=4, batch_size=1).setup()
    assert entries(tmp_path) == before


def test_a_changed_file_of_the_dataset_is_a_new_entry(tmp_path: Path) -> None:
    data = images(tmp_path / "images")
    settings: dict[str, Any] = {"datasets": data, "nway": 2, "cache_dir": str(tmp_path / "cache")}
    one = batches(glyphs(**settings).train_dataloader())
    before = entries(tmp_path / "cache")
    for path in (tmp_path / "images").rglob("*.png"):
        path.write_bytes((tmp_path / "images/class00/0.png").read_bytes())
    two = batches(glyphs(**settings).train_dataloader())
    assert not same(one, two) and len(entries(tmp_path / "cache") - before) == 3


def test_a_link_that_points_elsewhere_is_a_new_entry(tmp_path: Path) -> None:
    from functools import partial

    from torchmeta.datasets import MiniImagenet

    from tests.torchmeta_files import write

    for name in ("one", "other"):
        write("miniimagenet", tmp_path / name, samples=3)
    (tmp_path / "data/miniimagenet").mkdir(parents=True)
    seen = []
    for name in ("one", "other"):
        for file in (tmp_path / name / "miniimagenet").iterdir():
            link = tmp_path / "data/miniimagenet" / file.name
            link.unlink(missing_ok=True)
            link.symlink_to(file)
        datasets = {
            split: partial(MiniImagenet, root=str(tmp_path / "data"), meta_split=split)
            for split in ("train", "val", "test")
        }
        data = glyphs(datasets=datasets, nway=2, kshot={"support": 1, "query": 1}, cache_dir=str(tmp_path / "cache"))
        seen.append(batches(data.train_dataloader()))
    assert not same(*seen) and len(entries(tmp_path / "cache")) == 6


def test_an_entry_that_no_longer_agrees_with_the_dataset_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As if something had changed that no hash covers."""
    one = batches(only_val(tmp_path).train_dataloader())
    monkeypatch.setattr(
        "lightning_maml.data.sources.glyphs.render", lambda character, sample: 255 - render(character, sample)
    )
    two = batches(only_val(tmp_path).train_dataloader())
    assert not same(one, two) and "differs from what the transforms now make" in caplog.text


_BRIGHTER: set[float] = set()


class Brighter:
    def __call__(self, image: Any) -> Any:
        return image + float(float(image.sum()) in _BRIGHTER)


def test_a_refreshed_entry_is_made_anew_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here what neither the hash covers nor a look at each class's first sample finds."""
    settings: dict[str, Any] = {
        "datasets": images(tmp_path / "images"),
        "nway": 2,
        "cache_dir": str(tmp_path / "cache"),
        "transforms": [ToTensor(), Brighter()],
    }
    one = batches(glyphs(**settings).train_dataloader())
    before = entries(tmp_path / "cache")
    second = [Image.open(file) for file in (tmp_path / "images").rglob("1.png")]
    monkeypatch.setattr(sys.modules[__name__], "_BRIGHTER", {float(ToTensor()(image).sum()) for image in second})
    assert same(one, batches(glyphs(**settings).train_dataloader()))
    two = batches(glyphs(**settings, refresh=True).train_dataloader())
    assert not same(one, two) and same(two, batches(glyphs(**settings, cache="none").train_dataloader()))
    assert entries(tmp_path / "cache") == before and same(two, batches(glyphs(**settings).train_dataloader()))


@pytest.mark.parametrize("name", ["samples.npy", "classes.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "gone"])
def test_a_broken_entry_is_made_again(tmp_path: Path, name: str, damage: str) -> None:
    settings: dict[str, Any] = {
        "datasets": images(tmp_path / "images"),
        "nway": 2,
        "cache_dir": str(tmp_path / "cache"),
    }
    one = batches(glyphs(**settings).train_dataloader())
    paths = list((tmp_path / "cache").glob(f"*/{name}"))
    assert len(paths) == 3
    for path in paths:
        data = path.read_bytes()
        path.unlink()
        if damage != "gone":
            path.write_bytes(data[: len(data) // 2] if damage == "truncated" else b"")
    assert same(one, batches(glyphs(**settings).train_dataloader()))


def test_an_entry_is_opened_without_being_read_through(tmp_path: Path) -> None:
    one = batches(only_val(tmp_path).train_dataloader())
    for path in tmp_path.glob("*/samples.npy"):
        with path.open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\xff")  # the last pixel of the last class's last sample
    assert same(one[:1], batches(only_val(tmp_path).train_dataloader())[:1])


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    one = batches(only_val(tmp_path).train_dataloader())
    for entry in sorted(entries(tmp_path)):
        (tmp_path / entry).rename(tmp_path / f".{entry}")
        (tmp_path / f".{entry}" / "samples.npy").write_bytes(b"half")
    assert same(one, batches(only_val(tmp_path).train_dataloader()))
    assert not [name for name in entries(tmp_path) if name.startswith(".")]


def test_eight_processes_at_once_make_one_entry(tmp_path: Path) -> None:
    code = (
        "import logging; logging.basicConfig(level=logging.INFO); import lightning_maml;"
        f"from tests.unit.data.store.test_cache import *; only_val(Path({str(tmp_path)!r})).setup()"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * 8, errors
    assert sum(error.count("cached 1,520 samples") for error in errors) == 3


def test_what_has_no_lasting_name_is_cached_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = only_val(tmp_path, transforms=[ToTensor(), Lambda(lambda x: x)])
    data.setup()
    assert entries(tmp_path) == set() and "the train split is cached in memory" in caplog.text


def test_a_cache_dir_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "cache", tmp_path / "file"):
        with pytest.raises(SettingError, match="cache_dir=.*cannot be written.*cache=memory"):
            only_val(folder).setup()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"cache": "ram"}, "cache=ram: must be 'disk', 'memory' or 'none'"),
        ({"cache": "none", "device_resident": True}, "device_resident=True"),
    ],
)
def test_settings_that_cannot_work(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        glyphs(**setting)
