"""Files that are whole or as they were, and checkpoints that are whole or the ones before."""

import errno
import logging
import os
import resource
import signal
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from lightning_maml.callbacks import WholeFiles
from lightning_maml.callbacks.metrics_csv import MetricsCSV
from lightning_maml.checkpoint_files import is_whole, load_whole, previous_of, whole_or_previous
from lightning_maml.files import PrintableLines, all_or_none, is_no_room, replacing, save_figure, write_whole


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
    WholeFiles().save_checkpoint({"step": step, "weights": torch.full((size,), float(step))}, path)


def step_of(path: Path) -> int:
    return int(load_whole(path)["step"])


def test_a_last_checkpoint_keeps_the_one_before_it(tmp_path: Path) -> None:
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    for step in range(3):
        save(last, step)
        save(best, step)
    assert step_of(last) == 2 and step_of(previous_of(last)) == 1
    assert sorted(os.listdir(tmp_path)) == ["best.ckpt", "last.ckpt", "last.previous.ckpt"]


def test_a_damaged_last_checkpoint_does_not_take_the_place_of_the_whole_one_before_it(tmp_path: Path) -> None:
    last = tmp_path / "last.ckpt"
    for step in range(2):
        save(last, step)
    os.truncate(last, 100)
    save(last, 2)
    assert step_of(last) == 2 and step_of(previous_of(last)) == 0


@pytest.mark.parametrize("links", [True, False], ids=["", "a file system without hard links"])
def test_wherever_it_is_killed_a_whole_checkpoint_is_found(tmp_path: Path, links: bool) -> None:
    """Killed before each of the calls by which the third checkpoint comes to its place."""
    for number in count():
        folder = tmp_path / str(number)
        folder.mkdir()
        last = folder / "last.ckpt"
        for step in range(2):
            save(last, step)
        child = os.fork()
        if child == 0:
            _be_killed_before_call(number, links=links)
            save(last, 2)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        steps = step_of(whole_or_previous(last)), step_of(previous_of(last))
        assert steps in ((1, 0), (1, 1), (2, 1))
        assert not links or is_whole(last)
        save(last, 3)
        assert step_of(last) == 3 and step_of(previous_of(last)) == (1 if not links and steps == (1, 1) else steps[0])
        assert not [name for name in os.listdir(folder) if name.startswith(".")]
        if status == 0:
            assert number > 4 and steps == (2, 1)
            return
        assert os.WTERMSIG(status) == signal.SIGKILL


def _be_killed_before_call(number: int, *, links: bool) -> None:
    calls = count()

    def counted(function: Any) -> Any:
        def wrapped(*args: Any, **settings: Any) -> Any:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **settings)

        return wrapped

    def refused(*args: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    os.link = counted(os.link if links else refused)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_truncation_anywhere_and_flipped_bytes_are_noticed(tmp_path: Path) -> None:
    """Whatever is believed to be whole loads, and holds what was written; torch.load alone believes more."""
    last, weights = tmp_path / "last.ckpt", torch.arange(20.0)
    torch.save({"weights": weights}, last)
    data, believed, parts = last.read_bytes(), 0, parts_of(last)
    assert is_whole(last)
    for size in [*range(0, len(data), 20), len(data) - 1]:
        last.write_bytes(data[:size])
        assert not is_whole(last)
    folder_mark = data.index(b"PK\x01\x02", data.index(b"byteorder", data.index(b"PK\x01\x02"))) + 38  # of the weights
    for place in [*range(0, len(data), 10), folder_mark]:
        last.write_bytes(flipped(data, place))
        if is_whole(last):  # a byte that means nothing, such as what fills a part up
            believed += 1
            assert not any(place in part for part in parts)
            assert torch.equal(load_whole(last)["weights"], weights)
    assert believed
    last.write_bytes(flipped(data, data.index(weights.numpy().tobytes()) + 40))
    assert not torch.equal(torch.load(last, weights_only=True)["weights"], weights)
    with pytest.raises(ValueError, match="last.ckpt is damaged"):
        load_whole(last)


def parts_of(path: Path) -> list[range]:
    """Where in a zip file the content of each of its files is."""
    data, parts = path.read_bytes(), []
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            name, extra = struct.unpack_from("<HH", data, part.header_offset + 26)
            begin = part.header_offset + 30 + name + extra
            parts.append(range(begin, begin + part.compress_size))
    return parts


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


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
    logger.save()
    before, position = path.read_bytes(), logger.position
    with no_file_larger_than(len(before) + 3), pytest.raises(OSError, match=r"File too large: '.*metrics.csv'"):
        logger.log_metrics({"a": 0.2}, 2)  # and writes it, at once
    assert path.read_bytes() == before and logger.position == position
    logger.save()  # there is room again
    assert path.read_text().splitlines() == ["a,step", "0.1,1", "0.2,2"] and logger.position["rows"] == 2
    fresh = MetricsCSV(str(tmp_path / "fresh"))
    fresh.experiment.log_metrics({"a": 0.1}, 1)
    with no_file_larger_than(3), pytest.raises(OSError, match="File too large"):
        fresh.save()
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
