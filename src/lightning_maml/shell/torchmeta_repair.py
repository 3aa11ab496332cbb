"""Repair torchmeta 1.8.0, its last release, as it is imported, so that it runs beside today's PyTorch.

Each repair replaces a few words of its source. Checked with torch 2.11 and 2.15, torchvision 0.26 and 0.29, Python 3.11
to 3.14; all of them can go with torchmeta itself.

1. torchvision dropped two private functions that torchmeta's copy of `download_file_from_google_drive` needs:
   torchvision's own function of that name takes the copy's place.
2. `torch.utils.data.Subset` refuses a subclass that overrides `__getitem__` without `__getitems__`: `SubsetTask` gets
   one.
3. `close()` fails for MiniImagenet that was never opened, and for the tabular datasets once they were.
4. Omniglot is converted in the order in which the file system lists the drawings: they are sorted, so that the same
   task has the same images everywhere.
5. What is extracted from a tar archive stays in its folder, and what is unpickled runs nothing, by
   `data/store/archives.py`.
6. An archive that is there already is checked against its MD5 sum and extracted, not passed over, and CIFAR-100's stays
   for the other dataset that is made from it.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

_SAFE_ARCHIVES = (
    "        import tarfile\n",
    "        from lightning_maml.data.store.archives import plain_pickle as pickle, contained_tar as tarfile\n",
)
_CLOSE_FILE = ("            self._data.close()\n", "            self._data_file.close()\n")
_CHECK_ARCHIVE = ("        if not os.path.isfile(zip_filename):\n", "        if True:\n")
_DATASETS = "torchmeta.datasets"
_REPAIRS: dict[str, list[tuple[str, str]]] = {
    f"{_DATASETS}.utils": [
        ("import _get_confirm_token, _save_response_content\n", "import download_file_from_google_drive\n"),
        ("def download_file_from_google_drive(", "def _copied_download_file_from_google_drive("),
    ],
    "torchmeta.utils.data.task": [
        (
            "        return Subset.__getitem__(self, index)\n",
            "        return Subset.__getitem__(self, index)\n\n"
            "    def __getitems__(self, indices):\n        return [self[index] for index in indices]\n",
        )
    ],
    f"{_DATASETS}.omniglot": [
        ("in enumerate(filenames):\n", "in enumerate(sorted(filenames)):\n"),
        ("            if os.path.isfile(filename):\n                continue\n\n            url", "            url"),
    ],
    f"{_DATASETS}.miniimagenet": [
        _SAFE_ARCHIVES,
        (
            "        self._data = None\n        self._labels",
            "        self._data = self._data_file = None\n        self._labels",
        ),
    ],
    f"{_DATASETS}.tieredimagenet": [_SAFE_ARCHIVES],
    f"{_DATASETS}.cub": [_SAFE_ARCHIVES],
    f"{_DATASETS}.cifar100.base": [
        (_SAFE_ARCHIVES[0] + "        import pickle\n", _SAFE_ARCHIVES[1]),
        ("        if os.path.isfile('{0}.tar.gz'.format(gz_folder)):\n", "        if False:\n"),
    ],
    f"{_DATASETS}.doublemnist": [_CHECK_ARCHIVE],
    f"{_DATASETS}.triplemnist": [_CHECK_ARCHIVE],
    f"{_DATASETS}.letter": [_CLOSE_FILE],
    f"{_DATASETS}.one_hundred_plants_margin": [_CLOSE_FILE],
    f"{_DATASETS}.one_hundred_plants_shape": [_CLOSE_FILE],
    f"{_DATASETS}.one_hundred_plants_texture": [_CLOSE_FILE],
}


class _RepairingLoader(SourceFileLoader):
    """Compiles a module's source with its repairs made; torchmeta's own byte code stays as it is."""

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_source(fullname) or ""
        for wrong, right in _REPAIRS[fullname]:
            if wrong not in source:
                raise ImportError(f"{self.path} is not torchmeta 1.8.0's; install that version", name=fullname)
            source = source.replace(wrong, right)
        return compile(source, self.path, "exec")


class _RepairingFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _REPAIRS else None
        if spec is not None and spec.origin is not None:
            spec.loader = _RepairingLoader(fullname, spec.origin)
        return spec


def install() -> None:
    """Repair torchmeta's modules as they are imported. Installing twice changes nothing."""
    if not any(isinstance(finder, _RepairingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RepairingFinder())
