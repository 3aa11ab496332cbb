"""Files that are whole or as they were."""

import logging
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from lightning_maml.errors import SettingError
from lightning_maml.files import PrintableLines, all_or_none, is_no_room, replacing, save_figure, write_whole
from lightning_maml.reports import MetricsCSV
from lightning_maml.training import AtomicCheckpointIO
from lightning_maml.training.checkpoint_files import load_whole, reading


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As `ulimit -f`: writing beyond it fails, as on a full disk, in the middle of what is written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save(path: Path, step: int, size: int = 100) -> None:
    AtomicCheckpointIO().save_checkpoint({"step": step, "weights": torch.full((size,), float(step))}, path)


def step_of(path: Path) -> int:
    return int(load_whole(path)["step"])


def test_wherever_it_is_killed_a_whole_checkpoint_is_found(tmp_path: Path) -> None:
    """Killed before each of the calls by which the second checkpoint takes the place of the first."""
    for number in count():
        folder = tmp_path / str(number)
        last = folder / "last.ckpt"
        save(last, 1)
        child = os.fork()
        if child == 0:
            _be_killed_before_call(number)
            save(last, 2)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert step_of(last) in (1, 2)
        save(last, 3)
        assert step_of(last) == 3 and os.listdir(folder) == ["last.ckpt"]
        if status == 0:
            assert number > 2
            return
        assert os.WTERMSIG(status) == signal.SIGKILL


def _be_killed_before_call(number: int) -> None:
    calls = count()

    def counted(function: Any) -> Any:
        def wrapped(*args: Any, **settings: Any) -> Any:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **settings)

        return wrapped

    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, counted(getattr(os, name)))


def test_truncation_anywhere_is_noticed(tmp_path: Path) -> None:
    last = tmp_path / "last.ckpt"
    torch.save({"weights": torch.arange(20.0)}, last)
    data = last.read_bytes()
    for size in [*range(0, len(data), 20), len(data) - 1]:
        last.write_bytes(data[:size])
        with (
            pytest.raises(SettingError, match="no checkpoint, or it is damaged"),
            reading("x", str(last), "checkpoint", ""),
        ):
            load_whole(last)


def test_a_full_disk_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    last, text, picture = tmp_path / "last.ckpt", tmp_path / "metrics.json", tmp_path / "curves.png"
    save(last, 1)
    write_whole(text, "before")
    figure = Figure()
    save_figure(figure, picture)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for write in (
        lambda: save(last, 2, 10_000),
        lambda: write_whole(text, "x" * 10_000),
        lambda: save_figure(figure, picture, dpi=300),
    ):
        with no_file_larger_than(2_000), pytest.raises(OSError, match="File too large: '.*(ckpt|json|png)'") as raised:
            write()
        assert is_no_room(raised.value)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_line_of_metrics_that_does_not_fit_is_not_half_written(tmp_path: Path) -> None:
    logger, path = MetricsCSV(str(tmp_path)), tmp_path / "metrics.csv"
    logger.log_metrics({"a": 0.1}, 1)
    before, position = path.read_bytes(), logger.state_dict()
    with no_file_larger_than(len(before) + 3), pytest.raises(OSError, match=r"File too large: '.*metrics.csv'"):
        logger.log_metrics({"a": 0.2}, 2)  # and writes it, at once
    assert path.read_bytes() == before and logger.state_dict() == position
    logger.log_metrics({"a": 0.2}, 2)  # there is room again
    assert path.read_text().splitlines() == ["a,step", "0.1,1", "0.2,2"] and logger.state_dict()["rows"] == 2
    (tmp_path / "fresh").mkdir()
    fresh = MetricsCSV(str(tmp_path / "fresh"))
    with no_file_larger_than(3), pytest.raises(OSError, match="File too large"):
        fresh.log_metrics({"a": 0.1}, 1)
    assert os.listdir(tmp_path / "fresh") == []


def test_a_name_is_on_the_disk_after_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut between the two would leave a name without content, or lose the name."""
    calls: list[str] = []
    sync, rename = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("rename"), rename(*paths)))
    with replacing(tmp_path / "file") as file:
        file.write("text")
    assert calls == ["sync .file.new", "rename", f"sync {tmp_path.name}"]


def written(folder: Path, fault: str = "") -> None:
    """Two files, if nothing goes wrong."""
    with all_or_none(folder) as aside:
        write_whole(aside / "a", "after")
        if fault == "no room":
            with no_file_larger_than(100):
                write_whole(aside / "b", "x" * 1000)
        write_whole(aside / "b", "after")
        if fault == "raised":
            raise ZeroDivisionError


@pytest.mark.parametrize("fault", ["raised", "folder in the way", "no room"])
def test_of_several_files_all_are_written_or_none(tmp_path: Path, fault: str) -> None:
    (tmp_path / ".new").mkdir()
    (tmp_path / ".new/c").write_text("of a killed process")
    (tmp_path / "a").write_text("before")
    names = {"a"}
    if fault == "folder in the way":
        (tmp_path / "b").mkdir()
        names.add("b")
    with pytest.raises((OSError, ZeroDivisionError)):
        written(tmp_path, fault)
    assert (tmp_path / "a").read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == names
    if fault != "folder in the way":
        written(tmp_path)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "after", "b": "after"}


def test_what_is_logged_is_printable_line_by_line() -> None:
    record = logging.makeLogRecord({"msg": "%s is\nbroken", "args": ("\x1b[2J\udcff",)})
    assert PrintableLines("[x] %(message)s").format(record) == "[x] \\x1b[2J\\udcff is\nbroken"
