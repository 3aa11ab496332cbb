"""Anybody's images: a folder for each class."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torchmeta.utils.data import CombinationMetaDataset

from lightning_maml.arguments import Seed, checked
from lightning_maml.data.folder_classes import FolderClassDataset, Shares, classes_of_split
from lightning_maml.data.images import (
    ENDINGS,
    ImageFileError,
    accessible,
    as_mode,
    check_image,
    image_files,
    named_in_unicode,
    open_image,
    tell_left_out,
)
from lightning_maml.errors import SettingError, printable

log = logging.getLogger(__name__)


class ImageFolder(CombinationMetaDataset):  # type: ignore[misc]
    """N-way tasks over the images of a folder.

    They lie in `root/{train,val,test}/<class>/*`, or in `root/<class>/*`, whose classes are split by a seeded ratio.

    Args:
        root: the folder.
        num_classes_per_task: N.
        meta_train, meta_val, meta_test, meta_split: which split; exactly one.
        mode: Pillow's, to which every image is converted: "RGB", or "L" for grey.
        ratio: without folders for the splits: the share of the classes of each.
        split_seed: without folders for the splits: which classes are in which.
        skip_unreadable: leave out files that are no images, with a warning that names each, rather than refuse them.
        transform: applied to an image.
        target_transform: applied to a label (the class's name and its class augmentation).
        dataset_transform: applied to a task.
        class_augmentations: new classes made from these.

    Raises:
        SettingError: if the folder is missing or holds no classes, or a file is no image.
    """

    @checked
    def __init__(
        self,
        root: str,
        num_classes_per_task: int,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
        meta_split: str | None = None,
        mode: str = "RGB",
        ratio: Shares = (0.6, 0.2, 0.2),
        split_seed: Seed = 0,
        skip_unreadable: bool = False,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        dataset_transform: Callable[[Any], Any] | None = None,
        class_augmentations: list[Any] | None = None,
    ) -> None:
        dataset = ImageFolderClassDataset(meta_train, meta_val, meta_test, meta_split, class_augmentations)
        dataset.transform = transform
        dataset.read(Path(root).expanduser().absolute(), mode, ratio, split_seed, skip_unreadable=skip_unreadable)
        super().__init__(
            dataset, num_classes_per_task, target_transform=target_transform, dataset_transform=dataset_transform
        )


class ImageFolderClassDataset(FolderClassDataset):
    """A class is a folder of images; see `ImageFolder`."""

    @accessible("data.root")
    def read(self, root: Path, mode: str, ratio: Sequence[float], seed: int, *, skip_unreadable: bool) -> None:
        """Find the classes of this split and their images."""
        try:
            Image.new(mode, (1, 1))
        except (ValueError, KeyError) as error:
            raise SettingError("data.mode_of_images", mode, "choose RGB, or L for grey") from error
        folders = classes_of_split(root, self.meta_split, ratio, seed, _classes)
        tell_left_out(folders)
        files = [_images(folder, skip_unreadable=skip_unreadable) for folder in folders]
        self.hold([folder.name for folder in folders], files, partial(_opened, mode=mode))
        self.sources = [file for one in files for file in one]


def _opened(path: Path, mode: str) -> Image.Image:
    try:
        return as_mode(open_image(path), mode)
    except ImageFileError as error:
        raise _no_image(error) from error


def _classes(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    classes = named_in_unicode(found, "data.root")
    if not classes:
        raise SettingError("data.root", folder, "it has no sub-folders; each class is one, with its images in it")
    return classes


def _images(folder: Path, *, skip_unreadable: bool) -> list[Path]:
    """The images of a class, by name, each opened to see that it is one."""
    images = []
    for path in image_files(folder, "data.root"):
        try:
            (open_image if skip_unreadable else check_image)(path)
        except ImageFileError as error:
            if not skip_unreadable:
                raise _no_image(error) from error
            log.warning("%s is no image and is left out", printable(path))
        else:
            images.append(path)
    if not images:
        raise SettingError("data.root", folder, f"there are no images in this class's folder ({', '.join(ENDINGS)})")
    return images


def _no_image(error: ImageFileError) -> SettingError:
    return SettingError(
        "data.root",
        error.path,
        f"this file is {error.reason}; remove it, or leave such files out by data.skip_unreadable=true",
    )
