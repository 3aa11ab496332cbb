"""Archives of datasets, which torchmeta extracts and unpickles by itself: nothing in one is written outside its folder,
and nothing in one runs.

torchmeta checks their MD5 sums, which somebody who makes an archive can match with another one that he makes.
"""

import pickle
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_HAS_FILTERS = hasattr(tarfile, "data_filter")
# What NumPy's arrays and scalars, and the bytes of Python 2, are made of in a pickle.
_VALUES = {
    *(("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("collections", "OrderedDict")),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(("numpy._core.numeric", "_frombuffer"), ("numpy.core.numeric", "_frombuffer")),
}


@contextmanager
def nothing_leaves_or_runs() -> Iterator[None]:
    """Within, a member of a tar archive that would lie or point outside the folder is refused (`zipfile` keeps to it by
    itself), and `pickle.load` reads values alone.

    Before Python 3.11.4 tarfile cannot be told so, and no tar archive is extracted.

    Raises:
        tarfile.ExtractError: for a tar archive, before Python 3.11.4.
        tarfile.FilterError: for such a member, a device, or a link that goes up; nothing after it is extracted.
        pickle.UnpicklingError: for a pickle that names anything but what arrays are made of.
    """
    new: dict[str, Any] = {"extract": _refuse, "extractall": _refuse}
    if _HAS_FILTERS:
        new = {"extraction_filter": staticmethod(_in_folder)}
    before = {name: getattr(tarfile.TarFile, name) for name in new}, pickle.load
    pickle.load = _load  # type: ignore[assignment]
    try:
        for name, value in new.items():
            setattr(tarfile.TarFile, name, value)
        yield
    finally:
        for name, value in before[0].items():
            setattr(tarfile.TarFile, name, value)
        pickle.load = before[1]


def _refuse(*_: Any, **__: Any) -> None:
    raise tarfile.ExtractError(
        "a tar archive is extracted from Python 3.11.4 on, which keeps its members in their folder"
    )


def _in_folder(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """The filter that is the default from Python 3.14 on; but before 3.11.13, 3.12.11 and 3.13.4 many links that go up
    get past it (CVE-2025-4517), and no dataset has any."""
    if ".." in Path(member.linkname).parts:
        raise tarfile.LinkOutsideDestinationError(member, member.linkname)
    return tarfile.data_filter(member, folder)


class _ValuesOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _VALUES:
            raise pickle.UnpicklingError(f"a pickle in the archive would run {module}.{name}")
        return super().find_class(module, name)


def _load(file: BinaryIO, **settings: Any) -> Any:
    return _ValuesOnly(file, **settings).load()
