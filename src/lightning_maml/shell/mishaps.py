"""What befalls a run from outside, a full disk or a killed process, in one line that says how to go on.

Imports nothing heavy.
"""

import errno
import re
import traceback
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from lightning_maml.checkpoint_files import LAST, previous_of
from lightning_maml.errors import printable
from lightning_maml.files import is_no_room

_LOST_WORKER = re.compile(r"DataLoader worker \(pid.*\) (is killed by signal|exited unexpectedly)")  # PyTorch's words


def mishap(error: BaseException) -> str | None:
    """What happened, in one line; None if it was nothing of the kind."""
    if isinstance(error, OSError) and is_no_room(error):
        remedy = "allow larger files (ulimit -f)" if error.errno == errno.EFBIG else "free some"
        return f"{printable(error.filename or 'a file')}: {error.strerror}: {remedy} and {_go_on()}"
    if _is_of_a_lost_worker(error):
        return (
            f"a process that loads data was killed or has ended, as where memory runs out: {_go_on()}, perhaps with "
            "fewer of data.datamodule.num_workers"
        )
    return None


def _is_of_a_lost_worker(error: BaseException) -> bool:
    """Whether PyTorch says so, or has lost a worker in the middle of taking over a meta-batch from it."""
    if isinstance(error, RuntimeError):
        return _LOST_WORKER.match(str(error)) is not None
    places = traceback.extract_tb(error.__traceback__) if isinstance(error, OSError | EOFError) else []
    return any(place.name == "rebuild_storage_fd" for place in places)


def _go_on() -> str:
    """What to type for a run that had to end."""
    if not HydraConfig.initialized():
        return "start it again"
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        return f"start the sweep again with hydra.sweep.dir={hydra.sweep.dir}"
    last = Path(hydra.runtime.output_dir) / "checkpoints" / LAST
    if last.exists() or previous_of(last).exists():
        return f"resume by train.ckpt_path=last hydra.run.dir={hydra.runtime.output_dir}"
    return "start it again"
