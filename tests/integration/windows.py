"""`python tests/integration/windows.py PROGRAM ARGUMENTS`: a program with what Windows lacks taken out of Python.

What the project imports of others is imported before, and keeps what it has found.
"""

import builtins
import ctypes
import errno
import io
import os
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from lightning_maml.shell import command_line
from tests.integration import preloaded

_IMPORTED = (command_line, preloaded)
_SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN"}
_OF_SIGNAL = ("alarm", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait", "sigwaitinfo", "sigpending")
_OF_OS = (
    *("fork", "getuid", "geteuid", "killpg", "mkfifo", "posix_fallocate", "register_at_fork", "sched_getaffinity"),
    *("setsid", "statvfs", "sysconf", "uname", "O_DIRECTORY", "O_NOFOLLOW"),
)


def become_windows() -> None:
    """Take out what Windows lacks, and refuse what it refuses."""
    for name in [*_OF_SIGNAL, *(name for name in vars(signal) if name.startswith("SIG") and name not in _SIGNALS)]:
        vars(signal).pop(name, None)
    signal.valid_signals = lambda: {
        signal.SIGABRT,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGINT,
        signal.SIGSEGV,
        signal.SIGTERM,
    }
    for name in _OF_OS:
        vars(os).pop(name, None)
    for name in ("fcntl", "grp", "pwd", "resource", "termios"):
        sys.modules[name] = None  # type: ignore[assignment]
    _refuse(
        ctypes, "CDLL", lambda name, *_: TypeError("LoadLibrary() argument 1 must be str") if name is None else None
    )
    for module, name in ((builtins, "open"), (io, "open"), (os, "mkdir")):
        _refuse(module, name, lambda path, *_: _error(errno.EINVAL, path) if _is_no_name(path) else None)
    _refuse(os, "open", lambda path, *_: _error(errno.EACCES, path) if Path(path).is_dir() else None)
    _refuse(os, "fsync", lambda number: None if _is_writable(number) else _error(errno.EBADF))
    _refuse(os, "symlink", lambda source, *_: _error(errno.EINVAL, source))
    for name in ("rename", "replace", "unlink", "remove", "rmdir"):
        _refuse(
            os, name, lambda *paths, **_: next((_error(errno.EACCES, path) for path in paths if _is_open(path)), None)
        )
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightning_maml"]:
        del sys.modules[name]
    for module in [module for module in sys.modules.values() if "_IS_WINDOWS" in getattr(module, "__dict__", {})]:
        vars(module)["_IS_WINDOWS"] = True  # Lightning's
    sys.platform = "win32"


def _refuse(module: Any, name: str, reason: Callable[..., Exception | None]) -> None:
    allowed = getattr(module, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if (error := reason(*args)) is not None:
            raise error
        return allowed(*args, **kwargs)

    setattr(module, name, wrapped)


def _error(number: int, path: Any = None) -> OSError:
    return OSError(number, os.strerror(number), path)


def _is_no_name(path: Any) -> bool:
    return isinstance(path, str | os.PathLike) and not set('<>:"|?*').isdisjoint(os.fspath(path))


def _is_writable(number: int) -> bool:
    flags = Path(f"/proc/self/fdinfo/{number}").read_text().split("flags:")[1].split()[0]
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY


def _is_open(path: Any) -> bool:
    """Whether this process has a file open or mapped, or one in the folder."""
    if not isinstance(path, str | os.PathLike):
        return False
    whole, process = Path(path).absolute(), psutil.Process()
    held = [Path(file.path) for file in (*process.open_files(), *process.memory_maps())]
    return any(one == whole or whole in one.parents for one in held)


if __name__ == "__main__":
    become_windows()
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
