"""Few-shot tasks over your own texts: a file is a class, a line is a sample."""

from pathlib import Path
from typing import Any

from lightning_maml.arguments import Seed, checked
from lightning_maml.data.sources.folders import Shares, accessible, classes_of_split, named_in_unicode
from lightning_maml.data.sources.listed import ListedDataset
from lightning_maml.errors import SettingError


class TextFolder(ListedDataset):
    """N-way tasks over the texts in `root/{train,val,test}/<class>.txt`, or in `root/<class>.txt`, whose classes are
    split by a seeded ratio. Files are UTF-8; a sample is a line that is not empty.

    Args:
        root: the folder.
        num_classes_per_task: N.
        ratio: without folders for the splits, the share of the classes of each.
        split_seed: without folders for the splits, which classes are in which.
        settings: the split and the transforms, as `ListedDataset` takes them: one that makes a text token ids, such as
            `HashedWords`.

    Raises:
        SettingError: if the folder is missing or holds no classes, or a file is not UTF-8 or has no text.
    """

    @checked
    def __init__(
        self,
        root: str,
        num_classes_per_task: int,
        ratio: Shares = (0.6, 0.2, 0.2),
        split_seed: Seed = 0,
        **settings: Any,
    ) -> None:
        self._root, self._ratio, self._split_seed = Path(root).expanduser().absolute(), ratio, split_seed
        super().__init__(num_classes_per_task, **settings)

    @accessible("data.root")
    def listed(self, split: str) -> tuple[dict[str, list[str]], list[Path]]:
        files = classes_of_split(self._root, split, self._ratio, self._split_seed, _files)
        return {file.stem: _lines(file) for file in files}, files

    def opened(self, sample: str) -> str:
        return sample


def _files(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.suffix.lower() == ".txt" and not path.name.startswith("."))
    files = named_in_unicode(found, "data.root")
    if not files:
        raise SettingError("root", folder, "it has no .txt files; each class is one, with a text in every line")
    if len({file.stem for file in files}) < len(files):
        raise SettingError("root", folder, "two of its files name the same class, as a.txt and a.TXT; rename one")
    return files


def _lines(file: Path) -> list[str]:
    if not file.is_file():  # a pipe would be waited for
        raise SettingError("root", file, "this is no regular file; remove it")
    try:
        lines = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise SettingError("root", file, "this file is not UTF-8; save it as UTF-8") from error
    if not lines:
        raise SettingError("root", file, "there is no text in it; give a text in every line")
    return lines
