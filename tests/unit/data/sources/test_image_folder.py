"""Anybody's images."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ImageFile import ImageFile
from torchvision.transforms import RandomHorizontalFlip, Resize, ToTensor

from lightning_maml.data import ImageFolder, MetaDataModule
from lightning_maml.errors import SettingError
from tests.unit.data.test_tasks import batches, glyphs
from tests.unit.few_shot.test_images import POSTSCRIPT

SPLITS = ("train", "val", "test")


def picture(path: Path, size: tuple[int, int] = (6, 6), mode: str = "RGB", value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)


def flat(root: Path, classes: int = 10, samples: int = 4) -> Path:
    for index in range(classes):
        for sample in range(samples):
            picture(root / f"class{index}" / f"{sample}.png", value=index)
    return root


def data(root: Path, **settings: Any) -> MetaDataModule:
    datasets = {split: partial(ImageFolder, root=str(root), meta_split=split, **settings) for split in SPLITS}
    return glyphs(
        datasets=datasets,
        nway=2,
        kshot={"support": 1, "query": 1},
        transforms=[Resize([8, 8]), ToTensor()],
        cache="memory",
    )


def labels(root: Path, split: str, **settings: Any) -> list[str]:
    return ImageFolder(str(root), 2, meta_split=split, **settings).dataset.labels


def test_other_files_and_folders_among_the_images_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flat(tmp_path, classes=3)
    for index in range(3):
        picture(tmp_path / f"class{index}/more.TIF", value=index)
        picture(tmp_path / f"class{index}/other.jp2", value=index)
    (tmp_path / "class1/deeper").mkdir()
    dataset = ImageFolder(str(tmp_path), 2, meta_train=True, ratio=[1, 0, 0]).dataset
    assert [len(dataset[index]) for index in range(3)] == [5] * 3
    assert "left out among the images: 3 × .jp2, 1 × folder; they end with .png" in caplog.text


def test_every_ending_and_mode_and_size_in_folders_of_the_splits(tmp_path: Path) -> None:
    for split in SPLITS:
        for name in ("a", "b"):
            for index, ending in enumerate(("png", "JPG", "jpeg", "bmp", "webp")):
                picture(
                    tmp_path / split / name / f"{index}.{ending}", size=(5 + index, 9), mode="L" if index % 2 else "RGB"
                )
            (tmp_path / split / name / "notes.txt").write_text("not counted")
            (tmp_path / split / name / ".hidden.png").write_text("nor this")
    module = data(tmp_path)
    (episodes, *_) = batches(module.test_dataloader())
    assert episodes.support_x.shape == (4, 2, 3, 8, 8)
    assert module._tasks["train"].samples.sizes.tolist() == [5, 5]  # type: ignore[attr-defined]
    assert data(tmp_path, mode="L").input_shape == (1, 8, 8)


def test_classes_are_split_by_a_seeded_ratio(tmp_path: Path) -> None:
    root = flat(tmp_path)
    parts = {split: labels(root, split) for split in SPLITS}
    assert [len(part) for part in parts.values()] == [6, 2, 2]
    assert len(set().union(*parts.values())) == 10
    assert parts["train"] == labels(root, "train") != labels(root, "train", split_seed=1)
    assert [len(labels(root, split, ratio=[8, 1, 1])) for split in SPLITS] == [8, 1, 1]


def test_labels_belong_to_the_images(tmp_path: Path) -> None:
    """The class's number is the value of its pixels."""
    module = data(flat(tmp_path))
    for episodes in batches(module.train_dataloader()):
        for task in episodes.tasks():
            values = {
                int(y): round(float(x[0].mean() * 255)) for x, y in zip(task.support_x, task.support_y, strict=True)
            }
            for x, y in zip(task.query_x, task.query_y, strict=True):
                assert round(float(x[0].mean() * 255)) == values[int(y)]


def test_a_png_whose_chunks_are_damaged_is_named_too(tmp_path: Path) -> None:
    bad = flat(tmp_path) / "class3" / "0.png"
    content = bytearray(bad.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 0xFF
    bad.write_bytes(content)
    with pytest.raises(SettingError, match=f"root={bad}: this file is no image"):
        data(tmp_path).setup()
    data(tmp_path, skip_unreadable=True).setup()


def test_an_image_that_a_worker_cannot_read_is_one_line(tmp_path: Path) -> None:
    module = data(flat(tmp_path))
    module._transforms["train"] = [RandomHorizontalFlip(), *module._transforms["train"]]
    module._num_workers["train"] = 1
    loader = module.train_dataloader()
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"broken meanwhile")
    with pytest.raises(SettingError, match="^root=.*this file is no image"):
        next(iter(loader))


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_a_file_that_is_no_image_is_named_and_skipped_only_on_request(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    bad = flat(tmp_path) / "class3" / "broken.jpg"
    bad.write_bytes(content)
    with pytest.raises(SettingError, match=f"root={bad}: this file is no image.*data.skip_unreadable=true"):
        data(tmp_path).setup()
    data(tmp_path, skip_unreadable=True).setup()
    assert f"{bad} is no image and is left out" in caplog.text


def test_a_pipe_among_images_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = flat(tmp_path) / "class3" / "\x1b[2Jpipe.png"
    os.mkfifo(pipe)
    with pytest.raises(SettingError, match=r"\\x1b\[2Jpipe.png: this file is no image \(not a regular file\)"):
        data(tmp_path).setup()
    data(tmp_path, skip_unreadable=True).setup()
    assert r"\x1b[2Jpipe.png is no image and is left out" in caplog.text


def test_postscript_with_an_images_name_is_no_image(tmp_path: Path) -> None:
    (flat(tmp_path) / "class3" / "x.png").write_bytes(POSTSCRIPT)
    with pytest.raises(SettingError, match=r"x\.png: this file is no image"):
        data(tmp_path).setup()
    data(tmp_path, skip_unreadable=True).setup()


@pytest.mark.parametrize("place", ["class3\udcff/0.png", "class3/\udcff.png"])
def test_a_name_that_is_not_utf8_is_refused_where_it_is_one_of_a_class_or_an_image(tmp_path: Path, place: str) -> None:
    (flat(tmp_path) / "class3" / "notes\udcff.txt").write_text("not counted")
    data(tmp_path).setup()
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_bytes((tmp_path / "class3/0.png").read_bytes())
    with pytest.raises(SettingError, match=r"root=.*\\udcff.*: this name is not UTF-8; rename it"):
        data(tmp_path).setup()


def test_a_root_that_cannot_be_looked_into_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"root=.*aaa: File name too long; give another"):
        data(tmp_path / ("a" * 300)).setup()


def test_a_truncated_image_is_named_too(tmp_path: Path) -> None:
    bad = flat(tmp_path) / "class3" / "cut.png"
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(bad)
    bad.write_bytes(bad.read_bytes()[:5000])
    with pytest.raises(SettingError, match=f"root={bad}: this file is no image"):
        data(tmp_path).setup()
    module = data(tmp_path, skip_unreadable=True)
    module.setup()
    assert all(tasks.samples.sizes.max() == 4 for tasks in module._tasks.values())  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:Image size .* exceeds limit")  # the programs ignore it too: such a file is refused
@pytest.mark.parametrize(
    ("size", "reason"),
    [((10_000, 9_000), "too large: 10000×9000 pixels"), ((20_000, 9_000), "no image .*exceeds limit")],
)
def test_an_image_with_more_pixels_than_pillows_limit_is_named_before_it_is_unpacked(
    tmp_path: Path, size: tuple[int, int], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = flat(tmp_path) / "class3" / "bomb.png"
    Image.new("1", size).save(bomb)
    assert bomb.stat().st_size < 100_000
    load = ImageFile.load

    def watched(image: ImageFile) -> Any:
        assert image.width < 10_000
        return load(image)

    monkeypatch.setattr(ImageFile, "load", watched)
    with pytest.raises(SettingError, match=f"root={bomb}: this file is {reason}"):
        data(tmp_path).setup()


def test_a_class_with_too_few_images_is_named(tmp_path: Path) -> None:
    for split in SPLITS:
        flat(tmp_path / split, classes=2)
    for sample in (1, 2, 3):
        (tmp_path / "val" / "class1" / f"{sample}.png").unlink()
    with pytest.raises(SettingError, match="class class1 of the val split has 1 samples"):
        data(tmp_path).setup()


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (lambda root: root / "nowhere", {}, "root=.*nowhere: there is no such folder"),
        (lambda root: root, {}, "root=.*has no sub-folders"),
        (lambda root: flat(root / "train").parent, {}, "it has no sub-folder val"),
        (lambda root: flat(root), {"ratio": [1, 1]}, "ratio=.*three shares"),
        (lambda root: flat(root), {"ratio": 0.5}, "ratio=0.5: give three shares"),
        (lambda root: flat(root), {"ratio": ["a", 1, 1]}, "ratio=.*three shares"),
        (lambda root: flat(root), {"ratio": [1, -1, 1]}, "ratio=.*at least 0"),
        (lambda root: flat(root), {"ratio": [0, 0, 0]}, "ratio=.*not all of them 0"),
        (lambda root: flat(root), {"ratio": [1, float("nan"), 1]}, "ratio=.*three shares"),
        (lambda root: flat(root), {"split_seed": -1}, "split_seed=-1: must be at least 0"),
        (lambda root: flat(root), {"mode": "rgb"}, "mode_of_images=rgb: choose RGB"),
        (lambda root: flat(root), {"mode": "I"}, "mode_of_images=I: choose RGB"),
        (
            lambda root: (flat(root) / "empty").mkdir() or root,
            {"ratio": [9, 1, 1]},
            "root=.*empty: there are no images",
        ),
        (lambda root: flat(root), {"ratio": [1, 0, 1]}, "the val split gets none of the 10 classes"),
    ],
)
def test_folders_that_cannot_work(tmp_path: Path, make: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        data(make(tmp_path), **settings).setup()


def test_rotated_classes_of_square_images(tmp_path: Path) -> None:
    from torchmeta.transforms import Rotation

    root = flat(tmp_path)
    classes = ImageFolder(
        str(root), 2, meta_train=True, transform=ToTensor(), class_augmentations=[Rotation([90])]
    ).dataset
    assert len(classes) == 12
    assert torch.equal(classes[7][0][0], classes[1][0][0].rot90(1, dims=(1, 2)))
