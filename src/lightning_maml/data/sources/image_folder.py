"""Few-shot tasks over your own images: a folder is a class."""

import logging
from pathlib import Path
from typing import Any

from PIL import Image

from lightning_maml.arguments import Seed, checked
from lightning_maml.data.sources.folders import Shares, accessible, classes_of_split, named_in_unicode
from lightning_maml.data.sources.images import (
    ENDINGS,
    ImageFileError,
    as_mode,
    check_image,
    image_files,
    open_image,
    tell_left_out,
)
from lightning_maml.data.sources.listed import ListedDataset
from lightning_maml.errors import SettingError, printable

log = logging.getLogger(__name__)


class ImageFolder(ListedDataset):
    """N-way tasks over the images in `root/{train,val,test}/<class>/*`, or in `root/<class>/*`, whose classes are split
    by a seeded ratio.

    Args:
        root: the folder.
        num_classes_per_task: N.
        mode: the mode to which every image is converted: "RGB", or "L" for grey.
        ratio: without folders for the splits, the share of the classes of each.
        split_seed: without folders for the splits, which classes are in which.
        skip_unreadable: leave out files that are no images, with a warning that names each, rather than refuse them.
        settings: the split and the transforms, as `ListedDataset` takes them.

    Raises:
        SettingError: if the folder is missing or holds no classes, or a file is no image.
    """

    @checked
    def __init__(
        self,
        root: str,
        num_classes_per_task: int,
        mode: str = "RGB",
        ratio: Shares = (0.6, 0.2, 0.2),
        split_seed: Seed = 0,
        skip_unreadable: bool = False,
        **settings: Any,
    ) -> None:
        if mode not in ("RGB", "L"):
            raise SettingError("mode_of_images", mode, "choose RGB, or L for grey")
        self._root, self._mode, self._skip_unreadable = Path(root).expanduser().absolute(), mode, skip_unreadable
        self._ratio, self._split_seed = ratio, split_seed
        super().__init__(num_classes_per_task, **settings)

    @accessible("data.root")
    def listed(self, split: str) -> tuple[dict[str, list[Path]], list[Path]]:
        folders = classes_of_split(self._root, split, self._ratio, self._split_seed, _classes)
        tell_left_out(folders)
        classes = {folder.name: _images(folder, skip_unreadable=self._skip_unreadable) for folder in folders}
        return classes, [file for files in classes.values() for file in files]

    def opened(self, sample: Path) -> Image.Image:
        try:
            return as_mode(open_image(sample), self._mode)
        except ImageFileError as error:
            raise _no_image(error) from error


def _classes(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    classes = named_in_unicode(found, "data.root")
    if not classes:
        raise SettingError("root", folder, "it has no sub-folders; each class is one, with its images in it")
    return classes


def _images(folder: Path, *, skip_unreadable: bool) -> list[Path]:
    """Return the images of a class, by name, each opened to see that it is one."""
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
        raise SettingError("root", folder, f"there are no images in this class's folder ({', '.join(ENDINGS)})")
    return images


def _no_image(error: ImageFileError) -> SettingError:
    remedy = f"this file is {error.reason}; remove it, or leave such files out by data.skip_unreadable=true"
    return SettingError("root", error.path, remedy)
