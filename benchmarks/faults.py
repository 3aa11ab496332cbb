"""A campaign of faults: real runs that are killed, starved of room, robbed of their files, and set right again.

    python benchmarks/faults.py [--only kills …] [--kills 50] [--seed 0]

After each fault the run must go on, or end in one line and go on when it is started again, to the weights, optimizer
state, metrics.csv, metrics.json and tasks.csv of a run that nothing befell, bit for bit; and no file that is there may
be half there. Two runs at a time, on this machine alone; a full disk is a small file system in memory, which takes
root. Without --only it writes benchmarks/faults_report.md. The last line is one JSON object; the exit code is 1 if
anything did not survive, or ended otherwise.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.fault_plan import Plan, Trial  # noqa: E402
from benchmarks.fault_runs import Outcome  # noqa: E402
from lightning_maml.files import write_whole  # noqa: E402
from lightning_maml.reports.loggers import code_version  # noqa: E402
from tests import omniglot_server  # noqa: E402

REPORT = ROOT / "benchmarks" / "faults_report.md"
_COLUMNS = ("fault", "where", "tried", "survived", "identical", "lost at most", "what it said")


def tried(trials: Sequence[Trial], top: Path) -> list[Outcome]:
    """What came of each trial, two at a time, a line for each."""

    def attempt(number: int) -> list[Outcome]:
        try:
            outcomes = trials[number](top / f"trial-{number}")
        except Exception as error:  # one that cannot be judged has not survived, and the others go on
            wrong = f"{type(error).__name__}: {error}"
            outcomes = [Outcome("the campaign itself", f"trial {number}", False, False, wrong=wrong)]
        one, good = outcomes[0], all(outcome.survived and outcome.identical for outcome in outcomes)
        end = "survived" if good else f"WRONG: {next((outcome.wrong for outcome in outcomes if outcome.wrong), '')}"
        print(f"{number + 1} of {len(trials)}: {one.fault}, {one.where}: {end}", file=sys.stderr, flush=True)
        return outcomes

    with ThreadPoolExecutor(2) as two:
        return [outcome for outcomes in two.map(attempt, range(len(trials))) for outcome in outcomes]


def folded(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], list[Outcome]]:
    """The outcomes of each fault in each place, in the order in which they were first met."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in sorted(
        outcomes, key=lambda one: (one.fault, one.where) if one.fault == "SIGKILL" else (one.fault, "")
    ):
        groups.setdefault((outcome.fault, outcome.where), []).append(outcome)
    return groups


def as_table(outcomes: Sequence[Outcome]) -> Table:
    """A line for each fault in each place."""
    table = Table(box=box.MARKDOWN)
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column in _COLUMNS[2:6] else "left", overflow="fold")
    for (fault, where), found in folded(outcomes).items():
        counts = (len(found), sum(one.survived for one in found), sum(bool(one.identical) for one in found))
        said = next((one.said for one in found if one.said), "")
        table.add_row(fault, where, *map(str, counts), str(max(one.lost for one in found)), said.replace("|", "¦"))
    return table


def report(outcomes: Sequence[Outcome], command: str, seconds: float) -> str:
    """All of it as a page."""
    console = Console(width=4000, file=open(os.devnull, "w"), highlight=False)  # noqa: SIM115
    with console.capture() as capture:
        console.print(as_table(outcomes))
    table = "\n".join(" ".join(line.split()) for line in capture.get().strip().splitlines())
    wrong = [f"- {one.fault}, {one.where}: {one.wrong}" for one in outcomes if one.wrong]
    return "\n".join(
        [
            "# What befell runs, and what became of them",
            "",
            f"Written by `{command}` on {date.today()}, at commit {code_version()}, in {seconds / 60:.0f} minutes.",
            "*Identical*: weights, optimizer state, `metrics.csv`, `metrics.json` and `tasks.csv` are, bit for bit,",
            "those of a run that nothing befell, after the run has been started again where it had ended. *Lost*:",
            "meta-updates that had to be done again; checkpoints are three apart here. SIGKILL meets a run in each",
            "of six stages, one after another; what it comes to at last is compared.",
            "",
            table,
            "",
            *(["Wrong:", "", *wrong] if wrong else ["Nothing was wrong."]),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many of SIGKILL, over six stages in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places")
    plan_kinds = tuple(Plan(Path(), "", Path(), 0, 0).kinds)
    parser.add_argument("--only", nargs="+", choices=plan_kinds, metavar="KIND", help=", ".join(plan_kinds))
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(top / "cache")
        archives = top / "archives"
        archives.mkdir()
        omniglot_server.write_archives(archives, omniglot_server.splits(120))
        with omniglot_server.serving(archives) as (url, _):
            plan = Plan(top, url, archives, arguments.kills, arguments.seed)
            trials = [trial for kind in arguments.only or plan_kinds for trial in plan.kinds[kind]()]
            outcomes = tried(trials, top)
        outcomes = [_without(one, folder) for one in outcomes]
    Console(width=170).print(as_table(outcomes))
    for one in outcomes:
        if one.wrong:
            print(f"{one.fault}, {one.where}: {one.wrong}")
    if arguments.only is None:
        command = " ".join(["python benchmarks/faults.py", *sys.argv[1:]])
        write_whole(REPORT, report(outcomes, command, time.monotonic() - began))
    survived = sum(one.survived and bool(one.identical) for one in outcomes)
    result = {
        "tried": len(outcomes),
        "survived and identical": survived,
        "lost_at_most": max(one.lost for one in outcomes),
        "kills": dict(Counter(one.where for one in outcomes if one.fault == "SIGKILL")),
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    print(json.dumps(result))
    sys.exit(survived < len(outcomes))


def _without(outcome: Outcome, folder: str) -> Outcome:
    """Without the temporary folder's name in what was said."""
    outcome.said, outcome.wrong = (
        text.replace(folder, "…").replace("\n", " ") for text in (outcome.said, outcome.wrong)
    )
    return outcome


if __name__ == "__main__":
    main()
