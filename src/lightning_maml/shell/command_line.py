"""What stands between the shell and a Hydra main function: `.env`, errors in one line, what YAMLs may ask for.

Imports nothing heavy, so that `--help` answers at once.
"""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import wraps
from io import TextIOWrapper
from math import ceil, prod
from pathlib import Path
from typing import Any, NoReturn

from dotenv import load_dotenv
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

from lightning_maml.errors import SettingError, one_line, printable
from lightning_maml.files import alone_in, rank
from lightning_maml.shell import sweeps
from lightning_maml.shell.allocator import keep_freed_memory
from lightning_maml.shell.explanations import explain
from lightning_maml.shell.help_page import help_page, settings_page
from lightning_maml.shell.overrides import CONF, as_hydra_takes_them, quoted, translate_yamls
from lightning_maml.shell.processes import overrides_of_rank, several
from lightning_maml.shell.yamls import check_yamls

ROOT = Path(__file__).resolve().parents[3]
log = logging.getLogger(__name__)

_TRACEBACKS = "LIGHTNING_MAML_TRACEBACKS"  # as HYDRA_FULL_ERROR was set by the person, for processes of a launcher too
_cfg: DictConfig | None = None  # of the task that runs


def launch(main: Callable[[], Any], paths: Sequence[str] = ()) -> None:
    """Run a function decorated by `hydra.main`; a mistake of the user's ends it with one line and exit code 1.

    `HYDRA_FULL_ERROR=1` or `train.debug=true` shows the traceback too. Any other exception is shown whole: it is a bug,
    ours or that of the code being tried out.

    Args:
        main: the decorated function.
        paths: settings whose values are files or folders, and may hold any character.
    """
    asked = "1" if "train.debug=true" in sys.argv else os.environ.get("HYDRA_FULL_ERROR", "0")
    os.environ.setdefault(_TRACEBACKS, asked)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on rather than printing them
    logging.raiseExceptions = False  # a full disk, or nobody who reads, is told once, where the run ends
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # as long as the process
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a pipe of Windows takes no θ
    try:
        read_dotenv()
        check_yamls([CONF, *_folders_given(sys.argv)])
        sys.argv[1:] = as_hydra_takes_them(quoted(sys.argv[1:], paths))
        if several() and "hydra=optuna" in sys.argv:
            remedy = "each process would search for itself; have hydra/launcher=submitit_slurm start those of a trial"
            raise SettingError("hydra", "optuna", remedy)
        sys.argv += overrides_of_rank(sys.argv[1:])
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)  # Ctrl-C before training began; Lightning handles it from then on
    except BrokenPipeError:
        pass  # nobody reads any more, as in `--help | head`
    except Exception as error:
        _refuse(error)
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # Python would flush again when it exits, and tell of it once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_dotenv() -> None:
    """Read `.env`, and warn where others on this machine may read it too."""
    path = ROOT / ".env"
    try:
        load_dotenv(path)
    except UnicodeDecodeError as error:
        raise SettingError(str(path), f"byte {error.start}", "this file is UTF-8; save it as that") from error
    if rank() == 0 and os.name == "posix" and path.is_file() and path.stat().st_mode & 0o077:
        print(f"warning: others on this machine may read {path}: chmod 600 {path}", file=sys.stderr)


def _folders_given(arguments: Sequence[str]) -> list[Path]:
    """Return the folders of YAMLs that the command line names."""
    options = ("--config-dir", "-cd", "--config-path", "-cp")
    named = [(one, after) for one, after in zip(arguments, [*arguments[1:], ""], strict=True)]
    given = [after for one, after in named if one in options]
    given += [one.partition("=")[2] for one in arguments if one.startswith(options) and "=" in one]
    given += [path for one in arguments if "searchpath" in one for path in re.findall(r"file://([^,\]]+)", one)]
    return [Path(one) for one in given if one]


def forget() -> None:
    """Forget the task that ran, for a process that runs another."""
    global _cfg
    _cfg = None


def errors_in_one_line(task: Callable[[DictConfig], float | None]) -> Callable[[DictConfig], float | None]:
    """Decorate the task function: a mistake of the user's is one line; in a sweep, no error ends the others."""

    @wraps(task)
    def wrapped(cfg: DictConfig) -> float | None:
        global _cfg
        _cfg = deepcopy(cfg)  # Hydra resolves what it builds, and then nothing says where a value was typed
        _prepare_process()

        def translated(cfg: DictConfig) -> float | None:
            translate_yamls(cfg)
            return task(cfg)

        if sweeps.in_sweep():
            return sweeps.run_as_job(translated, cfg, _log)
        try:
            folder = Path(HydraConfig.get().runtime.output_dir)
            with alone_in(folder):
                sweeps.resume_last(cfg, folder, began=False)
                return translated(cfg)
        except Exception as error:
            _refuse(error)

    return wrapped


# Third parties' warnings that say nothing here, each with the reason.
_WARNINGS: tuple[tuple[str, str], ...] = (
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", "Lightning 2.6 on torch 2.15; nothing here to mend"),
    (r"The '\w+' does not have many workers", "how many pay depends on the data, and conf/data decides"),
    (r"GPU available but not used", "train.pl_trainer.accelerator=auto leaves Apple's alone on purpose"),
    (r"Image size \(\d+ pixels\) exceeds limit", "such images are refused in one line"),
    (r"Detected pickle protocol \d+ in the checkpoint", "such checkpoints are refused in one line"),
    (r"Differentiable RMSprop suffers from gradient correctness issues", "its gradients equal finite differences"),
)


def _prepare_process() -> None:
    """Set up a process that runs a task, those of a launcher included."""
    keep_freed_memory()
    if str(ROOT / "src") not in sys.path:
        sys.path.insert(0, str(ROOT / "src"))  # where people put their own modules
    if rank():
        logging.disable(logging.INFO)  # the first process speaks for all
    for message, _ in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    # higher's source, read for the first time: pip compiles it beforehand, uv does not.
    warnings.filterwarnings("ignore", category=SyntaxWarning, module=r".*\bhigher\b")
    # W&B 0.31 closes it, and Python 3.14 closes it again when it exits.
    metrics = logging.getLogger("opentelemetry.sdk.metrics._internal")
    metrics.addFilter(lambda record: record.msg != "shutdown can only be called once")


def _show_tracebacks() -> bool:
    debug = _cfg is not None and OmegaConf.select(_cfg, "train.debug") is True
    return debug or os.environ.get(_TRACEBACKS, "0") != "0"


def _log(error: Exception) -> str:
    """Log the error of a sweep's job, which does not end the others; return it in one line."""
    line = explain(error, _cfg)
    log.error("error: %s", line or one_line(error), exc_info=line is None or _show_tracebacks())
    return line or f"{type(error).__name__}: {one_line(error)}"


def _refuse(error: Exception) -> NoReturn:
    """End with one line for a mistake of the user's; raise anything else again."""
    line = explain(error, _cfg)
    if line is None and isinstance(error, OSError) and _cfg is None:  # Hydra makes the folder before the task begins
        line = (
            f"the run's folder cannot be made ({error.strerror}: {printable(error.filename)}); "
            "give another by hydra.run.dir=FOLDER (src/adapt.py: output=FOLDER)"
        )
    if line is None and {"-m", "--multirun"} & set(sys.argv):  # a launcher's: no job's own error comes here
        reason = f"{type(error).__name__}: {one_line(error)[:300]}"
        line = f"the sweep was not finished: {reason}; start it again with its hydra.sweep.dir"
    if line is None or _show_tracebacks():
        raise error
    print(f"process {rank()}: error: {line}" if rank() else f"error: {line}", file=sys.stderr)
    sys.exit(1)


def seed_everything(seed: int, matmul_precision: str = "highest") -> None:
    """Seed Python, NumPy, torch and the workers of data loaders, and set how exact a GPU computes.

    Args:
        seed: at least 0.
        matmul_precision: of float32 products on a GPU: "highest", "high" (TF32) or "medium" (bfloat16).
    """
    import pytorch_lightning as pl  # these take seconds, and --help should not
    import torch

    pl.seed_everything(seed, workers=True, verbose=False)
    torch.set_float32_matmul_precision(matmul_precision)
    torch.backends.cudnn.allow_tf32 = matmul_precision != "highest"


def _meta_updates(share: float = 1, *, _root_: Any) -> int:
    """Return the meta-updates of the whole fit, or of a share of it, for schedules that need their number."""
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
