"""Builds the null GPU: a CUDA runtime of no-ops, preloaded, over which PyTorch runs its own CUDA host code.

It finds what no test on a CPU can (wrong devices and dtypes, operators that CUDA has not, waits for the device) and
says nothing of numbers: kernels do not run. It knows no cuDNN.
"""

import re
import shutil
import subprocess
from pathlib import Path

import torch

from lightning_maml.inner_loops import functional_loop

HERE = Path(__file__).resolve().parent
_LIBRARIES = Path(torch.__file__).parent / "lib"
_HEADERS = next(_LIBRARIES.parents[1].glob("nvidia/*/include/cuda_runtime_api.h"), None)
_CALLERS = ("torch_cuda", "torch_cuda_linalg", "c10_cuda", "torch_python")
_COMPILE = ("g++", "-O1", "-shared", "-fPIC", "-fpermissive", "-w")
_NOT_CALLS = {"cudaGetErrorString", "cudaGetErrorName"}  # they hand back texts


def believe_every_number() -> None:
    """In a process that sees the null GPU: what compares or checks numbers, which no kernel has computed, takes them
    for right, and waits for the device as it would."""
    torch.backends.cudnn.enabled = False
    functional_loop._relative = _no_difference
    torch.isfinite = lambda x: _true(x).to(x.device, non_blocking=True)
    torch.Tensor.isfinite = _true


def _true(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(x.shape, dtype=torch.bool)


def _no_difference(_one: torch.Tensor, _other: torch.Tensor) -> float:
    return 0.0


def why_not() -> str | None:
    """Why there can be no null GPU here; None if there can."""
    if torch.cuda.is_available():
        return "there is a GPU"
    if _HEADERS is None or not (_LIBRARIES / "libtorch_cuda.so").exists():
        return "needs PyTorch's CUDA build"
    return None if shutil.which("g++") and shutil.which("nm") else "needs g++ and nm"


def build(folder: Path) -> dict[str, str]:
    """Compile it into a folder; returns the environment of a program that is to see it."""
    assert _HEADERS is not None
    written = (HERE / "cudart.cpp").read_text(encoding="utf-8")
    called = {name for library in _CALLERS for name in _undefined(library, r"cuda|cublas|cusolver")}
    left = sorted(name for name in called - _NOT_CALLS if f" {name}(" not in written)
    (folder / "rest.cpp").write_text(_no_ops(left), encoding="utf-8")
    driver = sorted(_undefined("caffe2_nvrtc", "cu") - {"cuDevicePrimaryCtxGetState"})
    active = "int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {*flags = 0; *active = 1; return 0;}"
    (folder / "driver.cpp").write_text(_no_ops(driver, active), encoding="utf-8")
    include = [f"-I{HERE}", f"-I{_HEADERS.parent}"]
    runtime = folder / "runtime.so"
    subprocess.run([*_COMPILE, "-o", runtime, HERE / "cudart.cpp", folder / "rest.cpp", *include], check=True)
    name = "libcuda.so.1"
    subprocess.run([*_COMPILE, f"-Wl,-soname,{name}", "-o", folder / name, folder / "driver.cpp"], check=True)
    return {"LD_PRELOAD": str(runtime), "LD_LIBRARY_PATH": str(folder), "PYTORCH_NVML_BASED_CUDA_CHECK": "0"}


def _undefined(library: str, prefix: str) -> set[str]:
    """The functions with such a prefix that a library of PyTorch's takes from elsewhere."""
    path = _LIBRARIES / f"lib{library}.so"
    listed = subprocess.run(["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True).stdout
    return set(re.findall(rf"\bU ((?:{prefix})\w+)", listed))


def _no_ops(names: list[str], more: str = "") -> str:
    return 'extern "C" {\n' + "\n".join(f"int {name}() {{return 0;}}" for name in names) + f"\n{more}\n}}\n"
