"""What is written and said of predictions, whatever the classes are called."""

import csv
from pathlib import Path

import pytest

from lightning_maml.few_shot.classifier import Prediction
from lightning_maml.few_shot.predictions import accuracy, as_table, write_predictions


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t'=1"),
        ("\r=1", "'\r'=1"),
        ("＝1", "'＝1"),
        ("a;=1", "a;'=1"),  # two cells, where a semicolon separates them
        ("a\n=1", "a\n'=1"),
        ("a-b, c=d; e", "a-b, c=d; e"),
        ("\x1b[31m", "\x1b[31m"),
    ],
)
def test_no_cell_is_a_formula_and_other_names_are_as_they_are(tmp_path: Path, name: str, cell: str) -> None:
    prediction = Prediction(name, 0.75, {name: 0.75, "other": 0.25})
    write_predictions([Path(name)], [prediction], [name], [name, "other"], tmp_path / "predictions.csv")
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        header, row = csv.reader(file)
    assert header == ["file", "class", "truth", f"p({cell.removeprefix(chr(39))})", "p(other)"]
    assert row == [cell, cell, cell, "0.750000", "0.250000"]


def test_the_table_has_names_and_no_markup_emoji_or_commands() -> None:
    names = ["[red]x[/red]", ":cat:", "a\nb", "\x1b[2J", "x\\", "\u202ey"]
    text = as_table([Prediction(name, 1, {}) for name in names], list(names), names)
    for shown in ("[red]x[/red] ", ":cat: ", r"a\nb ", r"\x1b[2J ", "x\\ ", r"\u202ey "):
        assert f"│ {shown}" in text
    assert all(line.isprintable() for line in text.split("\n"))


def test_accuracy_is_the_share_of_images_whose_class_was_predicted() -> None:
    predictions = [Prediction("a", 0.9, {"a": 0.9, "b": 0.1}), Prediction("b", 0.6, {"a": 0.4, "b": 0.6})]
    assert accuracy(predictions, ["a", "a"]) == 0.5
