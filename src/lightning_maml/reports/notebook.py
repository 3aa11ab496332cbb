"""Show runs in a notebook: start one, redraw a picture of it until it ends, and show the files that it has left."""

import csv
import io
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import PIL.Image
from IPython.display import Image, Markdown, display

from lightning_maml.reports.pictures import draw_curves
from lightning_maml.reports.sweeps.jobs import groups_of, jobs_of
from lightning_maml.reports.sweeps.picture import draw_sweep

_SECONDS = 3  # between two looks at a run


def watch(folder: Path, settings: Sequence[str], picture: Callable[[Path], Path | None], width: int = 720) -> None:
    """Run `python src/run.py SETTINGS` in the project's root, and redraw a picture of it until it has ended.

    Args:
        folder: a new folder, for the run or the sweep, with its output in `output.txt`.
        settings: as they are typed on the command line.
        picture: draws the folder as far as the run has come, and returns the file; None while there is nothing to draw.
        width: of the picture, in pixels.

    Raises:
        RuntimeError: with the end of the output, if the run fails.
    """
    lines = textwrap.wrap(shlex.join(["python", "src/run.py", *settings]), 90, break_on_hyphens=False)
    print(" \\\n    ".join(lines))
    folder.mkdir(parents=True)
    where = f"hydra.{'sweep' if '-m' in settings else 'run'}.dir={folder}"
    with (folder / "output.txt").open("w") as output:
        command = [sys.executable, "src/run.py", *settings, where]
        plain = os.environ | {"FORCE_COLOR": ""}  # notebooks ask for colours and bars, which a file is no place for
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=plain)
    screen = display(Markdown("*It begins in a few seconds.*"), display_id=True)  # type: ignore[no-untyped-call]
    while process.returncode is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_SECONDS)
        if (path := picture(folder)) is not None:
            screen.update(shown(path, width))
    if process.returncode != 0:
        raise RuntimeError((folder / "output.txt").read_text()[-3000:])


def curves(folder: Path) -> Path | None:
    """Draw the learning curves of a run, as far as it has come."""
    metrics = folder / "metrics.csv"
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    rows = list(csv.DictReader(line for line in lines if line.endswith("\n")))  # the last may be half written
    if not rows:
        return None
    draw_curves(rows, folder / "live.png")
    return folder / "live.png"


def finished_jobs(folder: Path) -> Path | None:
    """Draw the jobs of a sweep that have ended."""
    jobs = jobs_of(folder)
    if len(jobs) < 2 or not groups_of(jobs):
        return None
    draw_sweep(jobs, folder / "live.png")
    return folder / "live.png"


def print_results(folder: Path) -> None:
    """Print the table of a run's test."""
    found = re.search(r"Meta-test.*┘", (folder / "run.log").read_text(), re.DOTALL)
    print(found[0] if found else "this run has not been tested")


def shown(path: Path, width: int) -> Image:
    """Return a picture's file as a notebook shows it, with so few colours that the notebook stays small."""
    data = io.BytesIO()
    PIL.Image.open(path).convert("RGB").quantize(128).save(data, "png", optimize=True)
    return Image(data.getvalue(), width=width)  # type: ignore[no-untyped-call]
