"""Run the project's programs as a person does: each in a process of its own, in the project's root.

Such a process is a fork of one that has imported PyTorch and Lightning and done nothing else: most of what a small run
takes is these imports.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.paths import DATASET_PATH, ROOT

# PyTorch reads them when it is imported; joblib sets those that are not set, and other numbers round differently.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
os.environ.update(ONE_THREAD)
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.integration.preloaded"])

TINY = (
    "data=glyphs",
    "model=conv4_small",
    "model.torch_module.num_filters=4",
    "data.datamodule.kshot.support=1",
    "data.datamodule.kshot.query=2",
    "data.datamodule.batch_size.train=2",
    "data.datamodule.batch_size.val=2",
    "data.datamodule.batch_size.test=3",
    "data.datamodule.batches.train=3",
    "data.datamodule.batches.val=1",
    "data.datamodule.batches.test=2",
    "data.datamodule.num_workers.train=0",
    "train.pl_trainer.max_epochs=2",
    "train.pl_trainer.log_every_n_steps=1",
    "train.pl_trainer.accelerator=cpu",
)

# Of two epochs: momentum in both loops and dropout, so that nothing that is lost, or done twice, is without a trace.
TELLING = (
    "logging=csv",
    "model.torch_module._target_=tests.integration.dropout.DropoutMLP",
    "~model.torch_module.hidden_sizes",
    "+optim.inner_optimizer.momentum=0.9",
    "algorithm.num_inner_steps=2",
    "data.datamodule.batches.train=100",
    "train.checkpoint.every_n_steps=3",
    "train.test=false",
)


def environment(**changes: str) -> dict[str, str]:
    """That of a program; a change to nothing takes a variable out of it."""
    changed = os.environ | {"DATASET_PATH": str(DATASET_PATH)} | ONE_THREAD | changes
    return {name: value for name, value in changed.items() if value or name not in changes}


def tiny(*arguments: str) -> tuple[str, ...]:
    """TINY and `arguments`, without what TINY says of the groups that they pick otherwise."""
    picked = {argument.partition("=")[0] for argument in arguments}
    small = {"model.torch_module.num_filters"} if "model" in picked else set()
    return tuple(setting for setting in TINY if setting.partition("=")[0] not in picked | small) + arguments


def run(
    *arguments: str, folder: Path | None = None, timeout: int = 300, **env: str
) -> subprocess.CompletedProcess[str]:
    """`python src/run.py ARGUMENTS`, its run folder in `folder`."""
    where = [] if folder is None else [f"hydra.run.dir={folder}"]
    return program("src/run.py", *arguments, *where, timeout=timeout, **env)


def program(name: str, *arguments: str, timeout: int = 300, **env: str) -> subprocess.CompletedProcess[str]:
    """`python NAME ARGUMENTS` in the project's root."""
    with TemporaryDirectory() as folder:
        outputs = Path(folder, "stdout"), Path(folder, "stderr")
        process = begun(name, *arguments, stdout=outputs[0], stderr=outputs[1], **env)
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([name, *arguments], timeout, *(path.read_bytes() for path in outputs))
        assert process.exitcode is not None
        stdout, stderr = (path.read_text() for path in outputs)
    return subprocess.CompletedProcess([name, *arguments], process.exitcode, stdout, stderr)


def begun(name: str, *arguments: str, stdout: Path, stderr: Path, **env: str) -> ForkServerProcess:
    """`python NAME ARGUMENTS`, begun, with its output in two files, which may be one."""
    process = _FORKS.Process(target=become, args=(name, arguments, environment(**env), str(stdout), str(stderr)))
    process.start()
    return process


def become(name: str, arguments: tuple[str, ...], env: dict[str, str], stdout: str, stderr: str) -> None:
    """In the fork: be that program, as if it had just been started."""
    for descriptor, path in ((1, stdout), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [name, *arguments]
    paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [
        str((ROOT / name).parent),
        str(ROOT / "src"),
        *paths,
        *(path for path in sys.path if path not in ("", str(ROOT))),
    ]
    try:
        runpy.run_path(name, run_name="__main__")
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()


def started(*arguments: str, **env: str) -> "subprocess.Popen[str]":
    """`python src/run.py ARGUMENTS` in a process group of its own, to be disturbed."""
    return subprocess.Popen(
        [sys.executable, "src/run.py", *arguments],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT), **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def wait_for(found: Callable[[], bool]) -> None:
    """Wait until it is so, two minutes at most."""
    deadline = time.monotonic() + 120
    while not found() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found()


def fresh(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`python src/run.py ARGUMENTS` in a process that is no fork, for what starts processes by joblib, which would wait
    there for ever."""
    return subprocess.run(
        [sys.executable, "src/run.py", *arguments],
        cwd=ROOT,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=300,
    )


def job_folder(sweep: Path, override: str) -> Path:
    """The folder of the sweep's one job that has this override."""
    (found,) = [
        path.parent.parent
        for path in sweep.glob("*/.hydra/overrides.yaml")
        if f"- {override}" in path.read_text().splitlines()
    ]
    return found


def succeed(*arguments: str, folder: Path | None = None, **env: str) -> str:
    """Its output, after checking that it succeeded."""
    done = run(*arguments, folder=folder, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
