"""Whatever a person's image files are like, the network sees what the person sees."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from lightning_maml.data import ImageFileError
from lightning_maml.errors import SettingError, one_line
from lightning_maml.few_shot import Preprocessing
from lightning_maml.few_shot.folders import read_query, read_support

GREY = Preprocessing((1, 4, 6), [transforms.ToTensor()])
COLOUR = Preprocessing((3, 4, 6), [transforms.ToTensor()])
PICTURE = (np.arange(24).reshape(4, 6) * 10).astype(np.uint8)
EXPECTED = torch.tensor(PICTURE)[None].float() / 255


def test_a_grey_file_an_array_an_image_and_an_input_are_the_same(tmp_path: Path) -> None:
    image = Image.fromarray(PICTURE)
    image.save(tmp_path / "a.png")
    found = GREY([tmp_path / "a.png", str(tmp_path / "a.png"), image, PICTURE, EXPECTED])
    assert found.shape == (5, 1, 4, 6)
    torch.testing.assert_close(found, EXPECTED.expand(5, 1, 4, 6))
    torch.testing.assert_close(COLOUR([image])[0], EXPECTED.expand(3, 4, 6))


def test_exif_rotation_is_undone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    Image.fromarray(np.rot90(PICTURE).copy()).save(tmp_path / "a.png", exif=exif)
    torch.testing.assert_close(GREY([tmp_path / "a.png"])[0], EXPECTED)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\nshowpage\n%%EOF\n"


def test_postscript_starts_no_program_whoever_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "a.png").write_bytes(POSTSCRIPT)
    with pytest.raises(ImageFileError, match="no image"):
        GREY([tmp_path / "a.png"])
    with Image.open(tmp_path / "a.png") as image, pytest.raises(OSError, match="Ghostscript"):
        image.load()  # as torchmeta's and torchvision's datasets do
    assert not (tmp_path / "started").exists()


def test_photographs_of_two_pictures_in_a_file_are_read_as_jpeg(tmp_path: Path) -> None:
    """As phones make them: Pillow calls that format MPO."""
    image = Image.fromarray(np.full((4, 6), 100, np.uint8))
    image.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[image])
    assert GREY([tmp_path / "a.jpg"])[0].flatten().tolist() == pytest.approx([100 / 255] * 24)


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "dangling"])
def test_what_is_no_file_is_neither_waited_for_nor_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "support" / "a" / "x.png"
    path.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "loop" else tmp_path / "nowhere")
    with pytest.raises(ImageFileError, match=r"x\.png is no image \(not a regular file\)"):
        GREY([path])
    if kind == "folder":
        with pytest.raises(SettingError, match="a class without images"):
            read_support(str(tmp_path / "support"))
    else:
        assert read_support(str(tmp_path / "support"))[0] == [path]  # to be refused when it is opened


@pytest.mark.parametrize("place", ["a\udcff/1.png", "a/\udcff.png"])
def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path, place: str) -> None:
    path = tmp_path / "support" / place
    path.parent.mkdir(parents=True)
    Image.fromarray(PICTURE).save(path, format="PNG")
    for setting, read in (("support", read_support), ("query", lambda folder: read_query([folder], "a"))):
        with pytest.raises(SettingError, match=rf"{setting}=.*: this name is not UTF-8") as refused:
            read(str(tmp_path / "support"))
        assert r"\udcff" in one_line(refused.value).encode().decode()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1"])
def test_what_is_transparent_is_paper(tmp_path: Path, mode: str) -> None:
    alpha = np.where(np.arange(24).reshape(4, 6) % 2, 255, 0).astype(np.uint8)
    if mode == "1":
        image: Any = Image.fromarray(alpha).convert("1")
        expected = torch.tensor(alpha)[None] / 255
    else:
        layers = Image.merge("LA", [Image.new("L", (6, 4), 0), Image.fromarray(alpha)])
        image = layers if mode == "LA" else layers.convert("RGBA")
        image = image.convert("P") if mode == "P" else image
        expected = 1 - torch.tensor(alpha)[None] / 255
    image.save(tmp_path / "a.png")
    torch.testing.assert_close(GREY([tmp_path / "a.png"])[0], expected.float())
    torch.testing.assert_close(COLOUR([tmp_path / "a.png"])[0], expected.float().expand(3, 4, 6))


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_are_the_eight_that_they_stand_for_whatever_else_is_on_the_image(
    tmp_path: Path, ending: str
) -> None:
    """Stretched each to its own range, images that differ in brightness were one."""
    for darker in (1, 3):
        values = PICTURE // darker
        Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / f"a.{ending}")
        Image.fromarray(values).save(tmp_path / "b.png")
        assert torch.equal(*GREY([tmp_path / f"a.{ending}", tmp_path / "b.png"]))
        assert torch.equal(*GREY([Image.fromarray(values.astype(np.uint16) * 257), Image.fromarray(values)]))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, kind: Any) -> None:
    Image.fromarray(PICTURE.astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(ImageFileError, match="pixels of mode [IF] have no known range; convert it to 8 or 16 bits"):
        GREY([tmp_path / "a.tif"])


def test_several_pages_in_a_file_are_refused(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(PICTURE)] * 2)
    with pytest.raises(ImageFileError, match="3 in one file; give each its own"):
        GREY([tmp_path / "a.tif"])


def test_images_of_another_size_are_resized_and_dark_may_be_turned_into_bright() -> None:
    large = Image.fromarray(PICTURE).resize((60, 40), Image.Resampling.NEAREST)
    assert float((GREY([large])[0] - EXPECTED).abs().max()) < 0.05
    inverted = Preprocessing((1, 4, 6), [transforms.ToTensor()], invert=True)
    torch.testing.assert_close(inverted([PICTURE])[0], 1 - EXPECTED)


def test_an_image_of_pillows_is_turned_as_its_file_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(PICTURE).copy()).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        torch.testing.assert_close(GREY([image])[0], EXPECTED)


@pytest.mark.parametrize("values", [PICTURE.astype(float), PICTURE.astype(int), PICTURE[:0], PICTURE[0]])
def test_an_array_that_is_no_image_is_refused(values: Any) -> None:
    with pytest.raises(ValueError, match="give bytes"):
        GREY([values])
    torch.testing.assert_close(GREY([PICTURE[..., None]])[0], EXPECTED)


def test_a_transform_that_needs_a_larger_image_gets_one() -> None:
    crop = Preprocessing((1, 4, 6), [transforms.RandomCrop((4, 6)), transforms.ToTensor()])
    assert crop([PICTURE[:2]]).shape == (1, 1, 4, 6)


def test_an_input_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 5, 6\); the network takes \(1, 4, 6\)"):
        GREY([torch.zeros(1, 5, 6)])


def test_no_image_and_one_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageFileError, match="text.png is no image"):
        GREY([tmp_path / "text.png"])
    with pytest.raises(ImageFileError, match="nowhere.png is not there"):
        GREY([tmp_path / "nowhere.png"])
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(ImageFileError, match="too large: 6×4 pixels"):
        GREY([tmp_path / "a.png"])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # beyond twice as many Pillow refuses by itself
    with pytest.raises(ImageFileError, match="is no image .*exceeds limit"):
        GREY([tmp_path / "a.png"])


def folder(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PICTURE).save(root / file)
    return root


def test_sub_folders_are_classes_and_those_of_the_query_tell_the_truth(tmp_path: Path) -> None:
    root = folder(tmp_path, "b/1.png", "a/2.JPG", "a/1.webp", ".hidden/3.png", "c.png")
    (root / "a" / "notes.txt").write_text("no image")
    images, labels = read_support(str(root))
    assert [path.name for path in images] == ["1.webp", "2.JPG", "1.png"] and labels == ["a", "a", "b"]
    images, truth = read_query([str(root)], labels)
    assert [path.name for path in images] == ["c.png", "1.webp", "2.JPG", "1.png"] and truth == [None, "a", "a", "b"]
    assert read_query([str(root)], ["b"])[1] == [None, None, None, "b"]  # a folder that is no class tells nothing
    images, truth = read_query([str(root / "c.png"), str(root / "b")], labels)
    assert [path.name for path in images] == ["c.png", "1.png"] and truth == [None, None]


def test_folders_that_are_not_there_or_empty(tmp_path: Path) -> None:
    (tmp_path / "empty" / "a").mkdir(parents=True)
    for read, path, part in (
        (read_support, tmp_path / "nowhere", "support=.*nowhere: there is no such folder"),
        (read_support, tmp_path / "empty" / "a", "support=.*it has no sub-folders"),
        (read_support, tmp_path / "empty", "support=.*a: a class without images"),
        (read_support, tmp_path / ("a" * 300), "support=.*aaa: File name too long; give another"),
        (read_query, tmp_path / ("a" * 300), "query=.*aaa: File name too long; give another"),
        (read_query, tmp_path / "nowhere", "query=.*nowhere: there is no such file or folder"),
        (read_query, tmp_path / "empty", "query=.*there are no images in it"),
    ):
        with pytest.raises(SettingError, match=part):
            read_support(str(path)) if read is read_support else read_query([str(path)], [])


@pytest.mark.parametrize("last", [[], [transforms.Normalize((0.3,), (0.2,))]], ids=["plain", "normalized"])
def test_what_looks_the_opposite_of_training_is_inverted_and_photographs_are_not(last: list[Any]) -> None:
    prepare = Preprocessing((1, 8, 8), [transforms.ToTensor(), *last])
    chalk = np.zeros((8, 8), np.uint8)
    chalk[3] = 255
    ink, photograph = 255 - chalk, np.full((8, 8), 150, np.uint8)
    brightness = {name: float(prepare([image]).mean()) for name, image in (("chalk", chalk), ("photo", photograph))}
    assert prepare.looks_inverted([ink], brightness["chalk"])
    assert prepare.looks_inverted([np.uint8(ink * 0.4)], brightness["chalk"])  # on dim paper
    assert prepare.looks_inverted([chalk], float(prepare([ink]).mean()))
    assert not prepare.looks_inverted([np.full((8, 8), 90, np.uint8)], float(prepare([ink]).mean()))
    assert not prepare.looks_inverted([chalk], brightness["chalk"])
    assert not prepare.looks_inverted([photograph], brightness["photo"])
    assert not prepare.looks_inverted([ink], brightness["photo"])
    assert not prepare.looks_inverted([ink], float("inf"))  # of checkpoints that do not say
    assert not prepare.looks_inverted(list(prepare([ink])), brightness["chalk"])  # ready inputs
