"""Predictions as a CSV, as a picture and as a table."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_maml.data import open_image
from lightning_maml.errors import printable
from lightning_maml.few_shot.classifier import Label, Prediction
from lightning_maml.files import replacing, save_figure
from lightning_maml.reports.pictures import RIGHT, WRONG

_FORMULA = re.compile(r"(?<![^;\t\r\n])(?=[=+\-@\t\r\n＝＋－＠])")  # where one begins; many read ; for a comma
_DRAWN = 48
_COLUMNS = 8


def write_predictions(
    files: Sequence[Path],
    predictions: Sequence[Prediction],
    truth: Sequence[str | None],
    classes: Sequence[Label],
    path: Path,
) -> None:
    """Write a line for each image: its file, the class predicted, the true one where it is known, each probability.

    An apostrophe stands before whatever a spreadsheet would take for a formula, also after what may separate cells.
    """
    with replacing(path, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "truth", *(_cell(f"p({label})") for label in classes)])
        for name, prediction, known in zip(files, predictions, truth, strict=True):
            row = [f"{prediction.probabilities[label]:.6f}" for label in classes]
            writer.writerow([*map(_cell, (name, prediction.label, known or "")), *row])


def _cell(name: object) -> str:
    return _FORMULA.sub("'", str(name))


def as_table(predictions: Sequence[Prediction], truth: Sequence[str | None], classes: Sequence[Label]) -> str:
    """Return for each class how often it was predicted and how surely, and how many of its images were recognized."""
    known = [(one.label, label) for one, label in zip(predictions, truth, strict=True) if label is not None]
    table = Table(title=f"{len(predictions)} images", title_justify="left")
    table.add_column("class")
    for column in ("predicted", "mean probability", *(["recognized"] if known else [])):
        table.add_column(column, justify="right")
    for label in classes:
        own = [one.probability for one in predictions if one.label == label]
        row = [printable(label), str(len(own)), f"{sum(own) / len(own):.0%}" if own else ""]
        if known:
            found = [predicted for predicted, true in known if true == label]
            row.append(f"{found.count(label)} of {len(found)}")
        table.add_row(*map(Text, row))  # Rich would read `[red]` as a style
    console = Console(width=80, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(table)
    text = capture.get().rstrip()
    if known:
        right = sum(predicted == true for predicted, true in known)
        text += f"\naccuracy {right / len(known):.1%}: {right} of {len(known)} images whose class is known"
    return text


def accuracy(predictions: Sequence[Prediction], truth: Sequence[Label]) -> float:
    """Return the accuracy: the share of images whose class was predicted."""
    return sum(one.label == label for one, label in zip(predictions, truth, strict=True)) / len(predictions)


def draw_predictions(
    files: Sequence[Path], predictions: Sequence[Prediction], truth: Sequence[str | None], path: Path
) -> None:
    """Draw each image with its class and probability: green with ✓ where its folder agrees, red with ✗ where not."""
    shown = min(len(files), _DRAWN)
    columns = min(shown, _COLUMNS)
    rows = -(-shown // columns)
    figure = Figure(figsize=(max(1.5 * columns, 5), 1.9 * rows + 0.6), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, file, prediction, known in zip(grid, files, predictions, truth, strict=False):
        axes.imshow(open_image(file), cmap="gray")
        mark, colour = "", "black"
        if known is not None:
            mark, colour = (" ✓", RIGHT) if known == prediction.label else (" ✗", WRONG)
        name = printable(prediction.label)
        short = name if len(name) <= 14 else f"{name[:13]}…"
        axes.set_title(f"{short}\n{prediction.probability:.0%}{mark}", color=colour, fontsize=9, parse_math=False)
    count = f"the first {shown} of {len(files)} images" if shown < len(files) else f"{shown} images"
    figure.suptitle(f"Predicted class and its probability, {count}", fontsize=11)
    save_figure(figure, path)
