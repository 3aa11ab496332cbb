"""Open a stranger's archive: nothing in it is written outside its folder, and nothing in it runs.

torchmeta extracts a dataset's archive and loads the pickles in it. It checks the archive's MD5 sum, which somebody who
makes an archive can match with another one that he makes. So `torchmeta_repair.py` has it use `contained_tar` in place
of Python's `tarfile`, and `plain_pickle` in place of `pickle`. (`zipfile` keeps to its folder by itself.)
"""

import pickle
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, Literal

# What NumPy's arrays and scalars, and the bytes of Python 2, are made of in a pickle.
_VALUES = {
    *(("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("collections", "OrderedDict")),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(("numpy._core.numeric", "_frombuffer"), ("numpy.core.numeric", "_frombuffer")),
}


def open_tar(path: str, mode: Literal["r", "r:gz"] = "r") -> tarfile.TarFile:
    """Open a tar archive that refuses to extract a member which would lie or point outside the folder, or a device.

    Raises:
        tarfile.ExtractError: before Python 3.11.4, whose tarfile cannot be told so.
    """
    if not hasattr(tarfile, "data_filter"):
        raise tarfile.ExtractError("a tar archive is extracted from Python 3.11.4 on, which keeps its members in place")
    archive = tarfile.open(path, mode)  # noqa: SIM115  # its caller closes it
    archive.extraction_filter = _in_folder
    return archive


def _in_folder(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Apply the filter that is the default from Python 3.14 on. Before 3.11.13, 3.12.11 and 3.13.4 many links that go
    up get past it (CVE-2025-4517), and no dataset has any."""
    if ".." in Path(member.linkname).parts:
        raise tarfile.LinkOutsideDestinationError(member, member.linkname)
    return tarfile.data_filter(member, folder)


class _ValuesOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _VALUES:
            raise pickle.UnpicklingError(f"a pickle in the archive would run {module}.{name}")
        return super().find_class(module, name)


def load_values(file: BinaryIO, **settings: Any) -> Any:
    """Load a pickle of arrays and plain values, as `pickle.load` does.

    Raises:
        pickle.UnpicklingError: for a pickle that names anything else.
    """
    return _ValuesOnly(file, **settings).load()


contained_tar = SimpleNamespace(open=open_tar)
plain_pickle = SimpleNamespace(load=load_values)
