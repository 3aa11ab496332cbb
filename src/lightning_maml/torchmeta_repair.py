"""Let torchmeta 1.8.0 import and run beside today's PyTorch.

Its last release pins torch < 1.10, yet needs only two repairs to be imported (checked with torch 2.11 and 2.15,
torchvision 0.26 and 0.29, Python 3.11 and 3.12), and two more to be relied on:

1. torchvision dropped `_get_confirm_token` and `_save_response_content`, which `torchmeta.datasets.utils` imports
   for its copy of `download_file_from_google_drive`. torchvision's own function of that name takes the copy's place.
2. `torch.utils.data.Subset` refuses a subclass that overrides `__getitem__` without `__getitems__`, as
   `torchmeta.utils.data.task.SubsetTask` does. It gets one.
3. `close()` fails for MiniImagenet that was never opened, and for the tabular datasets once they were. It closes the
   file if one is open.
4. Omniglot is converted in whatever order the file system lists the drawings. They are sorted, so that the same task
   has the same images everywhere.

Each repair is applied at the moment its module is imported, so that importing `lightning_maml` stays cheap, and only
where it is needed.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any


@contextmanager
def _google_drive_download(module: ModuleType) -> Iterator[None]:
    """Repair 1: lend torchvision the two missing names while `module` is executed, then use torchvision's download."""
    import torchvision.datasets.utils as current

    missing = [name for name in ("_get_confirm_token", "_save_response_content") if not hasattr(current, name)]
    for name in missing:
        setattr(current, name, None)
    try:
        yield
    finally:
        for name in missing:
            delattr(current, name)
    if missing:
        module.download_file_from_google_drive = current.download_file_from_google_drive  # type: ignore[attr-defined]


@contextmanager
def _batched_subset(module: ModuleType) -> Iterator[None]:
    """Repair 2: give `SubsetTask` the `__getitems__` that `Subset` asks of its subclasses."""
    yield
    subset_task: Any = module.SubsetTask
    if "__getitems__" not in vars(subset_task):
        subset_task.__getitems__ = lambda self, indices: [self[index] for index in indices]


@contextmanager
def _closing(module: ModuleType) -> Iterator[None]:
    """Repair 3: close the HDF5 file of a `ClassDataset`, which its next reading opens again."""
    yield
    from torchmeta.utils.data import ClassDataset

    def close(self: Any) -> None:
        if self._data is not None:
            self._data.file.close()
        self._data = self._data_file = None

    for kind in vars(module).values():
        if isinstance(kind, type) and issubclass(kind, ClassDataset) and kind.__module__ == module.__name__:
            kind.close = close  # type: ignore[attr-defined]


@contextmanager
def _sorted_drawings(module: ModuleType) -> Iterator[None]:
    """Repair 4: let `glob` list files by name."""
    yield
    found = module.glob.glob
    module.glob = SimpleNamespace(glob=lambda pattern: sorted(found(pattern)))  # type: ignore[attr-defined]


_REPAIRS: dict[str, Callable[[ModuleType], Any]] = {
    "torchmeta.datasets.utils": _google_drive_download,
    "torchmeta.utils.data.task": _batched_subset,
    "torchmeta.datasets.omniglot": _sorted_drawings,
    "torchmeta.datasets.miniimagenet": _closing,
    "torchmeta.datasets.letter": _closing,
    "torchmeta.datasets.one_hundred_plants_margin": _closing,
    "torchmeta.datasets.one_hundred_plants_shape": _closing,
    "torchmeta.datasets.one_hundred_plants_texture": _closing,
}


class _RepairingLoader(Loader):
    def __init__(self, loader: Any, repair: Callable[[ModuleType], Any]) -> None:
        self._loader = loader
        self._repair = repair

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with self._repair(module):
            self._loader.exec_module(module)


class _RepairingFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _REPAIRS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _RepairingLoader(spec.loader, _REPAIRS[fullname])
        return spec


def install() -> None:
    """Repair torchmeta's modules as they are imported. Installing twice changes nothing."""
    if not any(isinstance(finder, _RepairingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RepairingFinder())
