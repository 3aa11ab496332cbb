"""The published numbers: runs what a budget allows, resumes what was interrupted, and writes docs/RESULTS.md.

    python -m benchmarks.results.sweep --budget MINUTES [--rows PATTERN …] [--seeds 0 1 2] [--published] [--runs FOLDER]

`results.yaml` beside this file holds the rows in the order in which they are run: an experiment of conf/, the paper's
number, and what a laptop changes in it, for how many minutes. A laptop's run is measured first and given as many
meta-updates as fit, so that its schedule ends with it; the number is kept, and a later call resumes the run. With
`--published` (by itself where there is a GPU) an experiment runs as it stands. What the page needs of a finished run is
kept in the repository, in this folder; without its record here, a row is run again. `--budget 0` only writes the page
again.
"""

import argparse
import fnmatch
import logging
import signal
import sys
import time
from pathlib import Path

import torch
import yaml

from benchmarks.project import ROOT
from benchmarks.results.page import write_page
from benchmarks.results.runs import Attempt, Folders, Row, RunFailedError

HERE = Path(__file__).resolve().parent
log = logging.getLogger(__name__)


def chosen(rows: list[Row], patterns: list[str]) -> list[Row]:
    """Return the rows whose experiment matches a pattern, such as `omniglot/maml_*`.

    Raises:
        SystemExit: if a pattern matches none.
    """
    for pattern in patterns:
        if not fnmatch.filter([row.experiment for row in rows], pattern):
            sys.exit(f"error: --rows {pattern}: no row has such an experiment; results.yaml lists the experiments")
    return [row for row in rows if any(fnmatch.fnmatch(row.experiment, pattern) for pattern in patterns or ["*"])]


def work(rows: list[Row], folders: Folders, arguments: argparse.Namespace) -> int:
    """Run the chosen rows, one after another, each with all of its seeds, until the budget is spent.

    Returns:
        How many runs failed; the others go on.
    """
    failed, deadline = 0, time.monotonic() + 60 * arguments.budget
    for row in chosen(rows, arguments.rows):
        for seed in arguments.seeds or (row.seeds if arguments.published else [0]):
            attempt = Attempt(row, seed, folders, published=arguments.published)
            left = deadline - time.monotonic()
            if left <= 0:
                return failed
            if attempt.record.finished or not (arguments.published or row.minutes or row.trained_by):
                continue  # nothing is left to do, or nothing that a laptop can do
            log.info("%s, seed %d: %.0f minutes of the budget are left", row.experiment, seed, left / 60)
            try:
                attempt.resume(deadline, arguments.measure)
            except RunFailedError as error:
                log.error("error: %s", error)
                failed += 1
            write_page(rows, folders, arguments.out)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, required=True, help="minutes")
    parser.add_argument("--rows", nargs="*", default=[], help="patterns of experiments; by default all, in order")
    parser.add_argument("--seeds", nargs="*", type=int, default=[], help="by default 0, or with --published the row's")
    parser.add_argument(
        "--published", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available(), help="with a GPU: on"
    )
    parser.add_argument("--runs", type=Path, default=Path("experiments/results"), help="where to run")
    parser.add_argument("--records", type=Path, default=HERE, help="where what the page needs is kept")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/RESULTS.md")
    parser.add_argument("--table", type=Path, default=HERE / "results.yaml")
    parser.add_argument("--measure", type=float, default=40, help="seconds to measure a laptop's speed for")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))  # the run that is alive is told, too
    rows = [Row(**node) for node in yaml.safe_load(arguments.table.read_text(encoding="utf-8"))]
    folders = Folders(arguments.runs.absolute(), arguments.records.absolute())
    try:
        failed = work(rows, folders, arguments)
    finally:
        write_page(rows, folders, arguments.out)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
