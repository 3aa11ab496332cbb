"""What stands between the shell and a Hydra main function: `.env`, errors in one line, what YAMLs may ask for.

Imports nothing heavy, so that `--help` answers at once.
"""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from io import TextIOWrapper
from math import ceil, prod
from pathlib import Path
from typing import Any, NoReturn

from dotenv import load_dotenv
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from lightning_maml import sweeps
from lightning_maml.errors import NonFiniteLossError, SettingError, one_line, printable
from lightning_maml.files import alone_in, is_no_room
from lightning_maml.processes import overrides_of_rank, rank, several
from lightning_maml.shell import redaction
from lightning_maml.shell.allocator import keep_freed_memory
from lightning_maml.shell.completion import complete_folders
from lightning_maml.shell.help_page import help_page, settings_page
from lightning_maml.shell.mishaps import mishap
from lightning_maml.shell.overrides import as_hydra_takes_them, quoted, translate_yamls, what_was_meant
from lightning_maml.sweeps import require_processes_from_outside as require_processes_from_outside

ROOT = Path(__file__).resolve().parents[3]
log = logging.getLogger(__name__)

_TRACEBACKS = "LIGHTNING_MAML_TRACEBACKS"  # as HYDRA_FULL_ERROR was set by the person, for processes of a launcher too
_task_began = False
_debug = False  # whether train.debug asks for tracebacks


def launch(main: Callable[[], Any], paths: Sequence[str] = ()) -> None:
    """Run a function decorated by `hydra.main`; a mistake of the user's ends it with one line and exit code 1.

    `paths` are settings whose values are files or folders, and may hold any character.

    `HYDRA_FULL_ERROR=1` or `train.debug=true` shows the traceback too. Any other exception is shown whole: it is a bug,
    ours or that of the code being tried out.
    """
    asked = "1" if "train.debug=true" in sys.argv else os.environ.get("HYDRA_FULL_ERROR", "0")
    os.environ.setdefault(_TRACEBACKS, asked)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on rather than printing them
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a pipe of Windows takes no θ
    load_dotenv(ROOT / ".env")
    redaction.keep_out(ROOT / ".env")
    if rank() == 0:
        redaction.warn_of_readers(ROOT / ".env")
    complete_folders()
    try:
        redaction.refuse_typed(sys.argv[1:])
        sys.argv[1:] = as_hydra_takes_them(quoted(sys.argv[1:], paths))
        if several() and "hydra=optuna" in sys.argv:
            remedy = "each process would search for itself; have hydra/launcher=submitit_slurm start those of a trial"
            raise SettingError("hydra", "optuna", remedy)
        sys.argv += overrides_of_rank(sys.argv[1:])
        main()
    except KeyboardInterrupt:
        sys.exit(130)  # Ctrl-C before training began; Lightning handles it from then on
    except Exception as error:
        if sweeps.at_end:
            _end_sweep(error)
        elif not (isinstance(error, BrokenPipeError) and _nobody_reads("\n")):
            _refuse(error)
    finally:
        sweeps.end()
        _nobody_reads()
    if sweeps.unfinished:
        lines = [*sweeps.unfinished[:3], *(["… (summary.md has all)"] if len(sweeps.unfinished) > 3 else [])]
        print(
            f"error: {len(sweeps.unfinished)} of the sweep's jobs did not finish: {'; '.join(lines)}", file=sys.stderr
        )
        sys.exit(1)


def _nobody_reads(last_words: str = "") -> bool:
    """Whether the reader of the output has gone, as in `--help | head`, before `last_words` or what came before them;
    they are then dropped."""
    try:
        sys.stdout.write(last_words)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def errors_in_one_line(task: Callable[[DictConfig], float | None]) -> Callable[[DictConfig], float | None]:
    """Decorates the task function: a mistake of the user's is one line; in a sweep, no error ends the others."""

    @wraps(task)
    def wrapped(cfg: DictConfig) -> float | None:
        global _task_began, _debug
        _task_began = True
        _debug = OmegaConf.select(cfg, "train.debug") is True
        _prepare_process()

        def masked_task(cfg: DictConfig) -> float | None:
            redaction.mask_configuration()
            translate_yamls(cfg)
            return task(cfg)

        if sweeps.in_sweep():
            return sweeps.run_as_job(masked_task, cfg, _log)
        try:
            folder = Path(HydraConfig.get().runtime.output_dir)
            with alone_in(folder):
                sweeps.go_on_from_last(cfg, folder, began=False)
                return masked_task(cfg)
        except Exception as error:
            _refuse(error)

    return wrapped


def _prepare_process() -> None:
    """What every process needs that runs a task, those of a launcher included."""
    redaction.keep_out(ROOT / ".env")
    keep_freed_memory()
    if str(ROOT / "src") not in sys.path:
        sys.path.insert(0, str(ROOT / "src"))  # where people put their own modules
    if rank():
        logging.disable(logging.INFO)  # the first process speaks for all
    # Lightning 2.6 asks PyTorch's pytrees what a leaf is in a way that torch 2.15 deprecates; nothing here to mend.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # How many workers pay depends on the data, not on the number of cores; conf/data decides.
    warnings.filterwarnings("ignore", message=r"The '\w+' does not have many workers")
    # Apple's is not, on purpose: train.pl_trainer.accelerator=auto leaves it alone.
    warnings.filterwarnings("ignore", message=r"GPU available but not used")
    # Such images, and such checkpoints, are refused in one line.
    warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")
    warnings.filterwarnings("ignore", message=r"Detected pickle protocol \d+ in the checkpoint")
    # higher's source, read for the first time: pip compiles it beforehand, uv does not.
    warnings.filterwarnings("ignore", category=SyntaxWarning, module=r".*\bhigher\b")
    # It does not: its outer gradients equal finite differences (tests/unit/inner_loops).
    warnings.filterwarnings("ignore", message=r"Differentiable RMSprop suffers from gradient correctness issues")
    # W&B 0.31 closes it, and Python 3.14 closes it again when it exits.
    metrics = logging.getLogger("opentelemetry.sdk.metrics._internal")
    metrics.addFilter(lambda record: record.msg != "shutdown can only be called once")


def _end_sweep(error: Exception) -> NoReturn:
    """End a sweep whose launcher or sweeper has given up, e.g. because a job's process was killed: no job's own error
    comes here."""
    try:
        sweeps.end()
    except OSError as another:
        if not is_no_room(another):
            raise
    if _show_tracebacks():
        raise error
    reason = explain(error) or f"{type(error).__name__}: {one_line(error)[:300]}"
    print(f"error: the sweep was not finished: {reason}; start it again with its hydra.sweep.dir", file=sys.stderr)
    sys.exit(1)


def _show_tracebacks() -> bool:
    return _debug or os.environ.get(_TRACEBACKS, "0") != "0"


def _log(error: Exception) -> str:
    """Log the error of a sweep's job, which does not end the others; returns it in one line."""
    line = explain(error)
    log.error("error: %s", line or one_line(error), exc_info=line is None or _show_tracebacks())
    return str(redaction.masked(line or f"{type(error).__name__}: {one_line(error)}"))


def _refuse(error: Exception) -> NoReturn:
    """End with one line for a mistake of the user's; raise anything else again."""
    line = explain(error)
    if line is None and isinstance(error, OSError) and not _task_began:  # Hydra makes the folder before
        line = (
            f"the run's folder cannot be made ({error.strerror}: {printable(error.filename)}); "
            "give another by hydra.run.dir=FOLDER (src/adapt.py: output=FOLDER)"
        )
    if line is None or _show_tracebacks():
        raise error
    print(f"process {rank()}: error: {line}" if rank() else f"error: {line}", file=sys.stderr)
    sys.exit(1)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and the workers of data loaders."""
    import pytorch_lightning as pl

    pl.seed_everything(seed, workers=True, verbose=False)


def set_matmul_precision(precision: str) -> None:
    """How exact float32 products and convolutions are on a GPU: "highest", "high" (TF32) or "medium" (bfloat16)."""
    import torch

    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"


def _meta_updates(share: float = 1, *, _root_: Any) -> int:
    """The meta-updates of the whole fit, or of a share of it, for schedules that need their number."""
    batches = _root_.data.datamodule.batches
    batches = batches if isinstance(batches, int) else batches.train
    limits = _root_.train.pl_trainer
    limit = limits.get("limit_train_batches")
    if limit is not None:  # as Lightning reads it: a number of batches, or a fraction of them
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    per_epoch = ceil(batches / _root_.algorithm.accumulate)
    planned = per_epoch * limits.max_epochs if limits.max_epochs not in (None, -1) else None
    if limits.max_steps not in (None, -1):
        planned = limits.max_steps if planned is None else min(planned, limits.max_steps)
    if planned is None:
        raise SettingError("train.pl_trainer.max_epochs", limits.max_epochs, "a schedule needs an end; set it")
    return round(share * planned)


# What the YAMLs may write in `${…}`, here and in the processes of a launcher; `env` as OmegaConf 2.0 had it.
OmegaConf.register_new_resolver("env", oc.env, replace=True)
OmegaConf.register_new_resolver("help_page", help_page, replace=True)
OmegaConf.register_new_resolver("settings_page", settings_page, replace=True)
OmegaConf.register_new_resolver("product", lambda *factors: prod(factors), replace=True)
OmegaConf.register_new_resolver("meta_updates", _meta_updates, replace=True)
OmegaConf.register_new_resolver("if", lambda condition, then, otherwise: then if condition else otherwise, replace=True)
OmegaConf.register_new_resolver("sweep", sweeps.name_of_sweep, replace=True)
OmegaConf.register_new_resolver("resumed", sweeps.resumed, replace=True)
OmegaConf.register_new_resolver("job_folder", sweeps.job_folder, replace=True)


def explain(error: BaseException) -> str | None:
    """One line for a mistake of the user's; None for anything else."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    for one in chain:
        if isinstance(one, SettingError | NonFiniteLossError):
            return one_line(one)
        if (line := what_was_meant(one) or mishap(one)) is not None:
            return line
        if type(one).__name__ == "MisconfigurationException":  # Lightning's; importing it takes seconds
            node = re.search(r"full_key: ([\w.]+)", str(error))
            return f"{node[1]}: {one_line(one)}" if node is not None else one_line(one)
        if isinstance(one, MemoryError) or _asks_for_memory(one):
            return f"there is not enough memory ({one_line(one)[:200]}); choose smaller sizes"
    if isinstance(error, InstantiationException) and not _is_about_the_yaml(chain[-1]):
        return None
    if isinstance(error, HydraException | OmegaConfBaseException):
        return "; ".join(dict.fromkeys(one_line(one) for one in chain))
    return None


def _asks_for_memory(error: BaseException) -> bool:
    """Whether PyTorch could not have what it asked for, of the machine's memory or an accelerator's."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator: " in str(error)


def _is_about_the_yaml(error: BaseException) -> bool:
    """Whether building an object failed for what its YAML says: a wrong `_target_`, an unknown or missing argument.
    Anything else that a constructor raises is a bug in it."""
    if isinstance(error, TypeError):
        return re.search(r"unexpected keyword argument|missing \d+ required", str(error)) is not None
    return isinstance(error, HydraException | OmegaConfBaseException | ImportError)
