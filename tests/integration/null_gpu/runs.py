"""python -m tests.integration.null_gpu.runs FOLDER: `src/run.py` on the null GPU, from fit to test, by each loop, each
in FOLDER/NAME; and `src/adapt.py`.

Each run is a fork of this process, which has imported PyTorch and Lightning and not yet touched the device.
"""

import os
import sys
import traceback
import warnings
from pathlib import Path

from lightning_maml.data.sources import glyph_images
from tests.integration import preloaded  # noqa: F401
from tests.integration.command import become, environment, tiny
from tests.integration.null_gpu.stub import believe_every_number
from tests.integration.null_gpu.waits import Waits

COMMON = (
    "logging=csv",
    "train.pl_trainer.accelerator=gpu",
    "data.datamodule.batches.train=6",
    "train.pl_trainer.max_epochs=1",
    "train.pl_trainer.log_every_n_steps=4",
    f"+train.callbacks.waits._target_={Waits.__module__}.Waits",
    "+train.callbacks.waits.run_dir=${hydra:runtime.output_dir}",
)
RUNS: dict[str, tuple[str, ...]] = {
    "higher": (),
    "vectorized": ("inner_loop=vectorized", "data.datamodule.device_resident=true"),
    "recompute": ("inner_loop=recompute", "inner_loop.vectorized=true"),
    "auto": ("inner_loop=auto",),
    "imaml": ("algorithm=imaml", "inner_loop.inner_solver=hessian_free", "algorithm.num_inner_steps=2"),
    "anil": ("algorithm=anil", "train.pl_trainer.precision=bf16-mixed", "inner_loop=vectorized"),
    "protonet": ("algorithm=protonet",),
    "r2d2": ("algorithm=r2d2", "inner_loop=vectorized"),
    "reptile": (
        "algorithm=reptile",
        "inner_loop.batch_size=3",
        "algorithm.num_inner_steps=2",
        "algorithm.eval_inner_steps=2",
    ),
}


def run(name: str, folder: Path, program: str, *arguments: str) -> int:
    """Its exit code; what it prints is in FOLDER/NAME.log."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        become(program, arguments, environment(), *[str(folder / f"{name}.log")] * 2)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def main(folder: Path) -> None:
    warnings.filterwarnings("ignore")
    believe_every_number()
    for name, settings in RUNS.items():
        where = f"hydra.run.dir={folder / name}"
        print(name, run(name, folder, "src/run.py", *tiny(*COMMON, *settings), where), flush=True)
    letters = [f"{part}={folder / 'letters' / part}" for part in ("support", "query")]
    glyph_images.write_images(folder / "letters")
    settings = (f"ckpt={folder / 'higher' / 'checkpoints' / 'best.ckpt'}", *letters, f"output={folder / 'adapt'}")
    print("adapt", run("adapt", folder, "src/adapt.py", *settings), flush=True)
    settings = (*settings[:-1], f"output={folder / 'onnx'}", "onnx=true")
    print("onnx", run("onnx", folder, "src/adapt.py", *settings), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
