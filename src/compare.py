"""Compare finished runs on the test tasks that they share: python src/compare.py RUN_A RUN_B …

A run is the folder that it left. Prints each run's query accuracy (loss, for regression), its difference to the first
run's with a 95 % interval, and the paired t-test; draws the differences.
"""

import argparse
import sys
from pathlib import Path

from lightning_maml.errors import one_line, printable
from lightning_maml.shell.explanations import explain


def main() -> None:
    """Read the arguments, print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="a run's folder; at least two")
    parser.add_argument("--output", type=Path, default=Path("comparison.png"), help="where the picture goes")
    arguments = parser.parse_args()
    if len(arguments.runs) < 2:
        parser.error("give at least two runs")
    from matplotlib.backend_bases import FigureCanvasBase
    from rich.console import Console  # these take a second, and --help should not

    from lightning_maml.reports.comparison import compare, comparison_table, draw_comparison

    formats = FigureCanvasBase.get_supported_filetypes()
    if arguments.output.suffix[1:] not in ("", *formats):
        sys.exit(f"error: --output={printable(arguments.output)}: end its name with one of {', '.join(formats)}")
    try:
        metric, differences = compare(arguments.runs)
        draw_comparison(metric, differences, arguments.output)
    except Exception as error:
        line = explain(error) or (f"--output: {one_line(error)}" if isinstance(error, OSError) else None)
        if line is None:
            raise
        sys.exit(f"error: {line}")
    Console(width=None if sys.stdout.isatty() else 120).print(comparison_table(metric, differences))
    print(f"the differences, drawn: {printable(arguments.output)}")


if __name__ == "__main__":
    main()
