"""Support and query images from folders: a sub-folder is a class."""

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning_maml.data import ENDINGS, ImageFileError, accessible, image_files, named_in_unicode, tell_left_out
from lightning_maml.errors import SettingError
from lightning_maml.files import is_folder


@accessible("support")
def read_support(folder: str) -> tuple[list[Path], list[str]]:
    """The images of every class, and the class of each.

    Raises:
        SettingError: if there is no such folder, it has no sub-folders, or one of them has no images.
    """
    root = Path(folder).expanduser()
    if not is_folder(root):
        raise SettingError("support", folder, "there is no such folder; give one whose sub-folders are the classes")
    classes = _folders(root, "support")
    if not classes:
        raise SettingError("support", folder, "it has no sub-folders; each class is one, with its images in it")
    tell_left_out(classes)
    images, labels = [], []
    for path in classes:
        found = image_files(path, "support")
        if not found:
            raise SettingError("support", path, f"a class without images ({', '.join(ENDINGS)}); add some or remove it")
        images += found
        labels += [path.name] * len(found)
    return images, labels


@accessible("query")
def read_query(query: Sequence[str], classes: Container[str]) -> tuple[list[Path], list[str | None]]:
    """The images to classify, and the class of each where its folder tells: a sub-folder named like a class; else None.

    Raises:
        SettingError: if a path does not exist, or there are no images.
    """
    images: list[Path] = []
    truth: list[str | None] = []
    for one in query:
        path = Path(one).expanduser()
        if is_folder(path):
            for folder in (path, *_folders(path, "query")):
                found = image_files(folder, "query")
                images += found
                truth += [folder.name if folder != path and folder.name in classes else None] * len(found)
        elif path.is_file():
            images += named_in_unicode([path], "query")
            truth.append(None)
        else:
            raise SettingError("query", one, "there is no such file or folder; give images, or a folder of them")
    if not images:
        raise SettingError("query", ", ".join(query), f"there are no images in it ({', '.join(ENDINGS)})")
    return images, truth


@contextmanager
def images_of(setting: str) -> Iterator[None]:
    """Say of a file that is no image which setting has brought it in.

    Raises:
        SettingError: for an `ImageFileError` within.
    """
    try:
        yield
    except ImageFileError as error:
        raise SettingError(setting, error.path, f"this file is {error.reason}; remove it or replace it") from error


def _folders(root: Path, setting: str) -> list[Path]:
    found = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return named_in_unicode(found, setting)
