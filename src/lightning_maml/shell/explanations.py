"""One line for what ends a run: a wrong setting, a full disk, a killed process. Imports nothing heavy."""

import errno
import re
import traceback
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from lightning_maml.errors import NonFiniteLossError, SettingError, one_line, printable
from lightning_maml.files import is_no_room
from lightning_maml.shell.addresses import addressed
from lightning_maml.shell.overrides import what_was_meant

_LOST_WORKER = re.compile(r"DataLoader worker \(pid.*\) (is killed by signal|exited unexpectedly)")  # PyTorch's words
_LOST_PROCESS = re.compile(r"[Cc]onnection (closed|reset) by peer|Broken pipe|gloo/transport")


def explain(error: BaseException, cfg: DictConfig | None = None) -> str | None:
    """Return one line for a mistake of the user's or a blow from outside; None for anything else, which is a bug.

    Args:
        error: what has ended the run.
        cfg: its configuration, in which settings are found; None before there is one.
    """
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    for one in chain:
        if isinstance(of_trainer := _of_the_trainer(one), SettingError):
            return one_line(ValueError(addressed(of_trainer, error, cfg)))
        if isinstance(one, NonFiniteLossError):
            return one_line(one)
        if (line := what_was_meant(one) or _of_a_yaml(one) or _from_outside(one)) is not None:
            return line
        if type(one).__name__ == "MisconfigurationException":  # Lightning's; importing it takes seconds
            return f"{_node(error)}{one_line(one)}"
    if isinstance(error, InstantiationException) and not _is_about_the_yaml(chain[-1]):
        return None
    refused = re.match(r"SettingError raised while resolving interpolation: (.*)", str(error))
    if refused is not None:  # by a resolver of ours; OmegaConf keeps its words alone
        return printable(refused[1])
    if isinstance(error, HydraException | OmegaConfBaseException):
        return "; ".join(dict.fromkeys(one_line(one) for one in chain))
    return None


def _of_the_trainer(error: BaseException) -> BaseException:
    """Return what Lightning says of an argument when a fit begins, "`val_check_interval` (50) must be …", as one of its
    settings; any other error as it is."""
    found = re.match(r"\s*`(\w+)` \((\d+)\) (must be .*?)\.( |$)", str(error)) if type(error) is ValueError else None
    return error if found is None else SettingError(found[1], found[2], found[3])


def _node(error: BaseException) -> str:
    """Return the address of the node that Hydra was building, with a colon; empty if it was building none."""
    found = re.search(r"full_key: ([\w.]+)", str(error))
    return f"{found[1]}: " if found is not None else ""


def _of_a_yaml(error: BaseException) -> str | None:
    """Return what is wrong with a YAML, or with what its settings refer to."""
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark
        place = f"{mark.name}, line {mark.line + 1}: " if mark is not None else ""
        return printable(f"{place}{error.problem}".replace("\n", " "))
    if isinstance(error, ValueError) and "set_int_max_str_digits" in str(error):
        return f"an integer is too long: {one_line(error).partition(';')[0]}"
    if isinstance(error, RecursionError):
        return "a YAML or a setting refers to itself: look at its defaults, and at ${…}"
    return None


def _is_about_the_yaml(error: BaseException) -> bool:
    """Return whether building an object failed for what its YAML says: a wrong `_target_`, an unknown or missing
    argument, a value that a library refuses. Anything else that a constructor raises is a bug in it."""
    if isinstance(error, TypeError):
        return re.search(r"unexpected keyword argument|missing \d+ required", str(error)) is not None
    return isinstance(error, HydraException | OmegaConfBaseException | ImportError)


def _from_outside(error: BaseException) -> str | None:
    """Return what has happened to the run, and how to resume it: no memory, no room on a disk, a process killed."""
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in str(error)
    ):
        return f"there is not enough memory ({one_line(error)[:200]}); choose smaller sizes"
    if isinstance(error, OSError) and is_no_room(error):
        remedy = "allow larger files (ulimit -f)" if error.errno == errno.EFBIG else "free some"
        return f"{printable(error.filename or 'a file')}: {error.strerror}: {remedy} and {_how_to_resume()}"
    if _is_of_a_lost_worker(error):
        return (
            f"a process that loads data was killed or has ended, as where memory runs out: {_how_to_resume()}, perhaps "
            "with fewer of data.datamodule.num_workers"
        )
    if isinstance(error, RuntimeError) and _LOST_PROCESS.search(str(error)):
        return f"another process of this run was killed or has ended: {_how_to_resume()}"
    return None


def _is_of_a_lost_worker(error: BaseException) -> bool:
    """Return whether PyTorch says so, or has lost a worker while it took over a meta-batch from it."""
    if isinstance(error, RuntimeError):
        return _LOST_WORKER.match(str(error)) is not None
    places = traceback.extract_tb(error.__traceback__) if isinstance(error, OSError | EOFError) else []
    return any(place.name == "rebuild_storage_fd" for place in places)


def _how_to_resume() -> str:
    """Return what to type for a run that had to end."""
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra is None or OmegaConf.is_missing(hydra.runtime, "output_dir"):
        return "start it again"
    if hydra.mode == RunMode.MULTIRUN:
        return f"start the sweep again with hydra.sweep.dir={hydra.sweep.dir}"
    if (Path(hydra.runtime.output_dir) / "checkpoints" / "last.ckpt").exists():
        return f"resume by train.ckpt_path=last hydra.run.dir={hydra.runtime.output_dir}"
    return "start it again"
