"""What a run says of itself."""

import ntpath
import os

import pytest

from lightning_maml.callbacks.announcements import shown


def test_a_path_is_shown_as_it_is_shortest_and_whole_on_another_drive(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(os.path.abspath("runs")) == "runs"
    monkeypatch.setattr(os.path, "relpath", ntpath.relpath)  # for which this folder has no drive
    assert shown(r"D:\runs") == os.path.abspath(r"D:\runs")
