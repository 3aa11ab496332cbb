"""Everything that a GPU is wanted for, within nine minutes: tables, and one JSON file.

    python benchmarks/gpu.py [--minutes 9] [--out experiments/gpu.json]
    python benchmarks/gpu.py --packages
    python benchmarks/gpu.py --device cpu --quick

It needs no set-up: any interpreter with PyTorch 2.11 or later, and its torchvision, does. A part whose packages are
missing is left out and said to be; `--packages` lists them as the lock has them, for `pip install --no-deps --target
site -r …` where there is an index, and PYTHONPATH=site where there is a GPU. Each part is a process with a time limit
of its own: one that fails or is stopped is a row that says so. `--quick` runs every part in small, also on a CPU. The
exit code is 1 if a test fails or there is no GPU. The last line is the JSON object of the file.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[1]
LOOPS = (
    *("torchvision", "numpy", "higher", "jaxtyping", "pydantic", "pydantic-core", "annotated-types"),
    *("typing-inspection", "psutil", "rich", "markdown-it-py", "mdurl", "pygments", "pytorch-lightning"),
    *("lightning-utilities", "packaging", "torchmetrics", "tqdm", "pyyaml", "torchmeta", "pillow", "h5py"),
    *("ordered-set", "requests", "certifi", "charset-normalizer", "idna", "urllib3", "hydra-core", "omegaconf"),
    *("antlr4-python3-runtime", "wadler-lindig"),
)
RUN = (
    *(*LOOPS, "matplotlib", "contourpy", "cycler", "fonttools", "kiwisolver", "pyparsing", "python-dateutil", "six"),
    *("platformdirs", "python-dotenv", "wandb", "click", "cwevals", "protobuf", "xxhash", "googleapis-common-protos"),
    *("opentelemetry-api", "opentelemetry-sdk", "opentelemetry-proto", "opentelemetry-semantic-conventions"),
    *("opentelemetry-exporter-otlp-common", "opentelemetry-exporter-otlp-proto-common"),
    *("opentelemetry-exporter-otlp-proto-http", "opentelemetry-exporter-http-transport"),
    *("httpx", "httpcore", "h11", "anyio", "sniffio", "distro"),
)
TESTS = (*RUN, "pytest", "pluggy", "iniconfig")
_LEAST, _AFTER = 10, 5  # seconds without which a part is not begun, and those kept for what comes after the last


class Part(NamedTuple):
    name: str
    arguments: tuple[str, ...]  # of the interpreter
    packages: tuple[str, ...]
    seconds: float  # at most


def parts(device: str, folder: Path, *, quick: bool) -> list[Part]:
    """Return the parts in the order of how much they are wanted, for the last may find no time left."""
    here, tests = f"--device={device}", ("-m", "pytest", "tests/integration/test_gpu.py", "--tb=short")
    one = ("-k", f"{'cpu' if device == 'cpu' else 'cuda'}-vectorized-maml") if quick else ("-m", "gpu")
    shapes = ("--shapes", "0", "--seconds", "0") if quick else ("--shapes", "1", "2", "3", "4", "--seconds", "2")
    only = ("--only", "vectorized", "vectorized, single tasks", "recompute", "auto")
    loops = ("benchmarks/speed/inner_loop.py", here, *shapes)
    steps = ("--problems", "0", "--steps", "1", "2") if quick else ("--problems", "9", "--steps", "5", "50")
    memory = ("benchmarks/memory/sizes.py", here, *steps, "--loops", "higher", "recompute")
    resident = training(folder / "resident", device, 1, quick=quick)
    return [
        Part("tests", (*tests, *one), TESTS, 130),
        Part("inner loops, float32", loops, LOOPS, 110),
        Part("training", training(folder / "training", device, 2, quick=quick), RUN, 170),
        Part("inner loops, bf16", (*loops, "--precision=bf16", *only), LOOPS, 60),
        Part("inner loops, tf32", (*loops, "--precision=tf32", *only), LOOPS, 60),
        Part("memory", memory, LOOPS, 40),
        Part("training, device_resident", (*resident, "data.datamodule.device_resident=true"), RUN, 100),
    ]


def training(folder: Path, device: str, minutes: int, *, quick: bool) -> tuple[str, ...]:
    """Return the command of MAML, 5-way 1-shot, 32 tasks: on Omniglot where it is, else on glyphs."""
    omniglot = Path(os.environ.get("DATASET_PATH") or ROOT / "data", "omniglot", "data.hdf5").exists() and not quick
    small = (
        "model.torch_module.num_filters=4",
        "train.pl_trainer.max_epochs=1",
        *(f"data.datamodule.batch_size.{one}=2" for one in ("train", "val", "test")),
    )
    train, val, test = (3, 1, 1) if quick else (400, 5, 40)
    return (
        *("src/run.py", "experiment=omniglot_maml_5way_1shot", f"data={'omniglot' if omniglot else 'glyphs'}"),
        *("inner_loop=vectorized", "logging=csv", f"hydra.run.dir={folder}"),
        *(f"train.pl_trainer.max_time=00:00:{minutes:02}:00", "train.checkpoint.every_n_steps=200"),
        *(f"data.datamodule.batches={{train: {train}, val: {val}, test: {test}}}", *(small if quick else ())),
        f"train.pl_trainer.accelerator={'cpu' if device == 'cpu' else 'gpu'}",
    )


def trained(folder: Path) -> dict[str, Any]:
    """Return what became of the run in `folder`: its test, and its speed up to the last checkpoint, by Lightning's
    timer, with all that belongs to training: the first meta-update's checks, validations, checkpoints."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    (timer,) = (one for name, one in state["callbacks"].items() if name.startswith("Timer"))
    import yaml

    settings, test = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text()), folder / "metrics.json"
    updates, seconds = state["global_step"], timer["time_elapsed"]["train"]
    return {
        "data": settings["data"]["datamodule"]["datasets"]["train"]["_target_"],
        "meta_updates": updates,
        "seconds": seconds,
        "tasks_per_second": updates * settings["data"]["datamodule"]["batch_size"]["train"] / seconds,
        "test_accuracy": json.loads(test.read_text())["metatest/outer_accuracy"],
    }


def launch(arguments: tuple[str, ...], seconds: float) -> tuple[int | None, str]:
    """Run `python ARGUMENTS`. Returns its exit code, None if it is stopped after so many seconds, and its output."""
    carried = [os.path.abspath(one) for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src"), *carried])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that what it has started is stopped with it
    )
    try:
        output = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    return process.returncode, output


def result_of(part: Part, output: str) -> Any:
    """Return what a part has found: pytest's last line, a run's figures, or a benchmark's last line of JSON."""
    lines = output.strip().splitlines()
    if part.name == "tests":
        return lines[-1]
    if part.arguments[0] == "src/run.py":
        (folder,) = (one.partition("=")[2] for one in part.arguments if one.startswith("hydra.run.dir="))
        return trained(Path(folder))
    return json.loads(next(line for line in reversed(lines) if line.startswith("{")))


def lacking(packages: Iterable[str]) -> list[str]:
    """Return those that are not installed."""
    installed = {re.sub(r"[-_.]+", "-", one.name).lower() for one in distributions()}
    return [name for name in packages if name not in installed]


def run(part: Part, ends: float) -> dict[str, Any]:
    """Run a part. Returns its row: what it came to, and what it has found, until it was stopped where it was."""
    missing, seconds = lacking(part.packages), min(part.seconds, ends - time.monotonic())
    if missing:
        return {"status": f"left out: lacks {', '.join(missing)}"}
    if seconds < _LEAST:
        return {"status": "left out: no time"}
    print(f"\n{part.name}: {seconds:.0f} s at most", flush=True)
    started = time.monotonic()
    code, output = launch(part.arguments, seconds)
    row: dict[str, Any] = {"seconds": round(time.monotonic() - started, 1)}
    lines = output.strip().splitlines() or [""]
    try:
        row["found"] = result_of(part, output)
    except (ValueError, OSError, KeyError, StopIteration):
        row["found"] = None
    quiet = part.arguments[0] == "src/run.py" and code == 0  # a run's log is long
    print("\n".join(lines[:-1] if part.name != "tests" else lines) if not quiet else row["found"], flush=True)
    status = (
        "stopped" if code is None else f"failed: {lines[-1]}" if code else "ok" if row["found"] else "found nothing"
    )
    return {"status": status} | row


def machine(device: str) -> dict[str, Any]:
    """Return the versions, and what the GPU is."""
    known = {"python": sys.version.split()[0], "torch": torch.__version__, "device": "cpu"}
    if device == "cpu":
        return known
    properties = torch.cuda.get_device_properties(device)
    found = {"device": properties.name, "memory_gb": properties.total_memory // 10**9, "cuda": torch.version.cuda}
    return known | found | {"cudnn": torch.backends.cudnn.version(), "capability": [properties.major, properties.minor]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9, help="for all parts together")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "gpu.json")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: with --quick only")
    parser.add_argument("--quick", action="store_true", help="every part in small, to see that it runs")
    parser.add_argument(
        "--packages", action="store_true", help="print what the parts need besides PyTorch and torchvision, and end"
    )
    arguments = parser.parse_args()
    if arguments.packages:
        wanted = set(TESTS) - {"torchvision"}  # another PyTorch's does not load: the one that is there goes with it
        locked = re.findall(r"^(([\w-]+)==.*)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
        print(*(line for line, name in locked if name in wanted), sep="\n")
        return 0
    ends = time.monotonic() + 60 * arguments.minutes - _AFTER
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: PyTorch sees none; --device cpu --quick runs every part in small", file=sys.stderr)
        return 1
    if arguments.device == "cpu" and not arguments.quick:
        parser.error("--device cpu goes with --quick only: the full sizes are a GPU's")
    missing = lacking(TESTS)
    if missing:
        print(f"without {', '.join(missing)}, parts are left out; --packages lists what to install, or to carry along")
    result: dict[str, Any] = {"machine": machine(arguments.device), "quick": arguments.quick, "parts": {}}
    print(json.dumps(result["machine"]), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        for part in parts(arguments.device, Path(folder), quick=arguments.quick):
            result["parts"][part.name] = run(part, ends)
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print()
    for name, row in result["parts"].items():
        print(f"{name:28} {row.get('seconds', 0):6.1f} s  {row['status']}")
    print(json.dumps(result))
    return int(result["parts"]["tests"]["status"].startswith(("failed", "stopped")))


if __name__ == "__main__":
    sys.exit(main())
