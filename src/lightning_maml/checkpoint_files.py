"""Checkpoints as files: whether one is whole, and from which a run goes on.

Imports nothing heavy.
"""

import os
import zipfile
from pathlib import Path

LAST = "last.ckpt"
_FOLDER = 0x10  # in a zip file


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether a file is there and as `torch.save` has written it: every part agrees with its checksum, and `torch.load`
    reads it, which by itself takes weights with a flipped bit for what they were. (0.05 s for 100 MB.)
    """
    import torch  # which takes seconds, and which whoever asks this needs anyway

    try:
        with zipfile.ZipFile(path) as archive:
            # of a part with the mark of a folder PyTorch reads nothing, and hands out memory as it finds it
            if archive.testzip() is not None or any(part.external_attr & _FOLDER for part in archive.infolist()):
                return False
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # over damaged bytes they raise what they happen to stumble on
        return False
    return True


def previous_of(path: Path) -> Path:
    """Where what was `path` before its last rewriting is kept: `last.ckpt`, `last.previous.ckpt`."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def whole_or_previous(path: Path) -> Path:
    """`path` itself; or, where a last checkpoint is missing or damaged, the one before it, if that is whole."""
    before = previous_of(path)
    return before if path.name == LAST and not is_whole(path) and is_whole(before) else path
