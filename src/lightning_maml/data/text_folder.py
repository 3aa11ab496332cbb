"""Few-shot tasks over somebody's texts: a file is a class, a line is a sample."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torchmeta.utils.data import CombinationMetaDataset

from lightning_maml.arguments import Seed, checked
from lightning_maml.data.folder_classes import FolderClassDataset, Shares, classes_of_split
from lightning_maml.data.images import accessible, named_in_unicode
from lightning_maml.errors import SettingError


class TextFolder(CombinationMetaDataset):  # type: ignore[misc]
    """N-way tasks over texts, which lie in `root/{train,val,test}/<class>.txt`, or in `root/<class>.txt`, whose classes
    are split by a seeded ratio. Files are UTF-8; a sample is a line that is not empty.

    Args:
        root: the folder.
        num_classes_per_task: N.
        meta_train, meta_val, meta_test, meta_split: which split; exactly one.
        ratio: without folders for the splits: the share of the classes of each.
        split_seed: without folders for the splits: which classes are in which.
        transform: applied to a text; such as `HashedWords`, which makes it token ids.
        target_transform: applied to a label, the class's name.
        dataset_transform: applied to a task.
        class_augmentations: new classes made from these.

    Raises:
        SettingError: if the folder is missing or holds no classes, or a file is not UTF-8 or has no text.
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
        ratio: Shares = (0.6, 0.2, 0.2),
        split_seed: Seed = 0,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        dataset_transform: Callable[[Any], Any] | None = None,
        class_augmentations: list[Any] | None = None,
    ) -> None:
        dataset = TextFolderClassDataset(meta_train, meta_val, meta_test, meta_split, class_augmentations)
        dataset.transform = transform
        dataset.read(Path(root).expanduser().absolute(), ratio, split_seed)
        super().__init__(
            dataset, num_classes_per_task, target_transform=target_transform, dataset_transform=dataset_transform
        )


class TextFolderClassDataset(FolderClassDataset):
    """A class is a file of texts; see `TextFolder`."""

    @accessible("data.root")
    def read(self, root: Path, ratio: Sequence[float], seed: int) -> None:
        """Find the classes of this split and their texts."""
        self.sources = classes_of_split(root, self.meta_split, ratio, seed, _files)
        self.hold([file.stem for file in self.sources], [_lines(file) for file in self.sources], str)


def _files(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.suffix.lower() == ".txt" and not path.name.startswith("."))
    files = named_in_unicode(found, "data.root")
    if not files:
        raise SettingError("data.root", folder, "it has no .txt files; each class is one, with a text in every line")
    return files


def _lines(file: Path) -> list[str]:
    if not file.is_file():  # a pipe would be waited for
        raise SettingError("data.root", file, "this is no regular file; remove it")
    try:
        lines = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise SettingError("data.root", file, "this file is not UTF-8; save it as UTF-8") from error
    if not lines:
        raise SettingError("data.root", file, "there is no text in it; give a text in every line")
    return lines
