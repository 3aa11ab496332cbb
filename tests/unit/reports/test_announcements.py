"""What a run says of itself."""

import logging
import ntpath
import os
from pathlib import Path

import pytest

from lightning_maml.reports.announcements import conclude, shown


def test_the_best_checkpoint_is_named_whatever_it_is_called(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "champion.ckpt").touch()
    with caplog.at_level(logging.INFO, logger="lightning_maml"):
        conclude(str(tmp_path), [], str(tmp_path / "champion.ckpt"))
    assert shown(str(tmp_path / "champion.ckpt")) in caplog.text


def test_a_path_is_shown_as_it_is_shortest_and_whole_on_another_drive(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(os.path.abspath("runs")) == "runs"
    monkeypatch.setattr(os.path, "relpath", ntpath.relpath)  # for which this folder has no drive
    assert shown(r"D:\runs") == os.path.abspath(r"D:\runs")
