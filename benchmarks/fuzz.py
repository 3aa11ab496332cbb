"""Random configurations, each of which must train or be refused in one line: python benchmarks/fuzz.py --examples 500

Every member of every group of conf/ has its turn; around it the other groups, and settings in their range, are drawn by
hypothesis. Each runs in a process of its own, tiny, for two meta-updates, without a network; Omniglot is read from
DATASET_PATH where it is there. Prints a table by member, what was refused, and the command that repeats a failure; the
last line is JSON. Exit code 1 if anything failed, a member had no turn, or one that needs no download never trained.
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from tests.integration.configurations import Outcome, drawn, members, outcome  # noqa: E402

# what is not downloaded here, and what is made for it
MAY_BE_ABSENT = ("data=", "experiment=omniglot", "experiment=miniimagenet/")
KINDS = ("trained", "refused", "failed")


def tried(overrides: list[str]) -> Outcome:
    """In a folder that is left behind by nobody."""
    with tempfile.TemporaryDirectory() as folder:
        return outcome(overrides, Path(folder, "run"))


def table_of(counts: dict[str, Counter[str]]) -> Table:
    """How often each member was picked, and what became of it."""
    table = Table(title="What became of the configurations with each member", title_justify="left")
    for name in ("member", *KINDS):
        table.add_column(name, justify="left" if name == "member" else "right")
    for member, count in counts.items():
        table.add_row(member, *(str(count[kind]) for kind in KINDS))
    return table


def main() -> None:
    """Draw, run, and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="how many run at once")
    arguments = parser.parse_args()
    picked = {f"{group}={name}": Counter[str]() for group, names in members().items() for name in names}
    kinds: Counter[str] = Counter()
    refusals: dict[str, list[str]] = defaultdict(list)
    failures: list[str] = []
    examples = drawn(arguments.examples, arguments.seed)
    console = Console(width=120)
    with ThreadPoolExecutor(arguments.processes) as pool:
        results = zip(examples, pool.map(tried, examples), strict=True)
        for overrides, found in results:
            kinds[found.kind] += 1
            if kinds.total() % 25 == 0:
                print(f"{kinds.total()} of {len(examples)}", file=sys.stderr, flush=True)
            for override in overrides:
                if override in picked:
                    picked[override][found.kind] += 1
            command = f"python src/run.py {shlex.join(overrides)}"
            if found.kind == "refused":
                refusals[found.said].append(command)
            if found.kind == "failed":
                failures.append(command)
                print(f"FAILED: {found.said}\n  {command}", flush=True)
    console.print(table_of(picked))
    for said, commands in sorted(refusals.items(), key=lambda one: -len(one[1])):
        print(f"{len(commands)} × {said}")
    without = [member for member, count in picked.items() if not count]
    refused = [member for member, count in picked.items() if count and not count["trained"]]
    summary = {name: kinds[name] for name in KINDS} | {"examples": len(examples), "members": len(picked)}
    print(json.dumps(summary | {"without a turn": without, "never trained": refused, "failures": failures}))
    sys.exit(1 if failures or without or any(not member.startswith(MAY_BE_ABSENT) for member in refused) else 0)


if __name__ == "__main__":
    main()
