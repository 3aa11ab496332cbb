"""Preparing a dataset: torchmeta's own download of Omniglot, against a server on this machine."""

import errno
import logging
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import pytest
from torchmeta.datasets import Omniglot
from torchmeta.datasets.omniglot import OmniglotClassDataset
from torchvision.transforms import Lambda, Resize, ToTensor

from lightning_maml.data.store.preparation import ensure_prepared
from lightning_maml.errors import SettingError
from tests import omniglot_server
from tests.unit.data.test_tasks import batches, glyphs, same

SETTING = "data.datamodule.datasets.train"
FILES = (
    "data.hdf5",
    "train_labels.json",
    "test_labels.json",
    *(f"vinyals_{s}_labels.json" for s in ("train", "val", "test")),
)


SPLITS = omniglot_server.splits(8)


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    omniglot_server.write_archives(folder, SPLITS)
    return folder


@pytest.fixture
def requests(archives: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    with omniglot_server.serving(archives) as (url, requests):
        omniglot_server.use(url, archives, SPLITS, monkeypatch.setattr)
        yield requests


@pytest.fixture(scope="session")
def prepared_once(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    with omniglot_server.serving(archives) as (url, _), pytest.MonkeyPatch.context() as monkeypatch:
        omniglot_server.use(url, archives, SPLITS, monkeypatch.setattr)
        ensure_prepared(omniglot(root), SETTING)
    return root


@pytest.fixture
def prepared(prepared_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared_once, tmp_path / "prepared", symlinks=True))


def omniglot(root: Path) -> Any:
    return partial(Omniglot, root=str(root), meta_train=True, download=True)


def content(root: Path) -> dict[str, bytes]:
    return {name: (root / "omniglot" / name).read_bytes() for name in FILES if name.endswith("json")}


def test_the_real_download_code_leaves_a_whole_dataset_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 1,623 characters."""
    everything, source, root = omniglot_server.splits(), tmp_path / "source", tmp_path / "root"
    source.mkdir()
    omniglot_server.write_archives(source, everything)
    with omniglot_server.serving(source) as (url, requests):
        omniglot_server.use(url, source, everything, monkeypatch.setattr)
        ensure_prepared(omniglot(root), SETTING)
        expected = ["/images_background.zip", "/images_evaluation.zip"]
        assert list(dict.fromkeys(requests)) == expected  # torchvision asks twice
        requests.clear()
        ensure_prepared(omniglot(root), SETTING)
        assert requests == []
    assert {path.name for path in root.iterdir()} <= {"omniglot", ".preparing.lock"}
    archives = {"images_background.zip", "images_evaluation.zip"}
    assert {path.name for path in (root / "omniglot").iterdir()} == {*FILES, *archives}
    sizes = {split: len(Omniglot(str(root), 5, meta_split=split).dataset) for split in ("train", "val", "test")}
    assert sizes == {"train": 1028, "val": 172, "test": 423}
    assert len(Omniglot(str(root), 5, meta_test=True).dataset[7]) == omniglot_server.DRAWINGS


def test_drawings_are_in_the_order_of_their_names(prepared: Path, archives: Path) -> None:
    import zipfile

    import numpy as np
    from PIL import Image

    with (
        zipfile.ZipFile(archives / "images_background.zip") as archive,
        h5py.File(prepared / "omniglot/data.hdf5") as file,
    ):
        folder = "images_background/Alphabet_of_the_Magi/character05"
        names = sorted(name for name in archive.namelist() if name.startswith(f"{folder}/"))
        drawings = [255 - np.asarray(Image.open(archive.open(name)).convert("L")) for name in names]
        assert np.array_equal(file[folder][()], np.stack(drawings))


@pytest.mark.parametrize("name", ["data.hdf5", "vinyals_train_labels.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "gone"])
def test_a_file_that_cannot_be_opened_is_prepared_again(
    prepared: Path, requests: list[str], name: str, damage: str
) -> None:
    """As torchmeta leaves one that was killed."""
    whole, path = content(prepared), prepared / "omniglot" / name
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(data[: len(data) // 2] if damage == "truncated" else b"")
    ensure_prepared(omniglot(prepared), SETTING)
    assert content(prepared) == whole and requests == []  # the archives were there
    assert len(Omniglot(str(prepared), 5, meta_train=True).dataset[7]) == omniglot_server.DRAWINGS


def test_a_dataset_that_lacks_a_class_is_one_line(prepared: Path, requests: list[str]) -> None:
    """A character that is missing shows only when the characters are looked up."""
    with h5py.File(prepared / "omniglot/data.hdf5", "r+") as file:
        del file["images_background/Alphabet_of_the_Magi/character05"]
    datasets = {
        split: partial(Omniglot, root=str(prepared), download=True, meta_split=split)
        for split in ("train", "val", "test")
    }
    with pytest.raises(
        SettingError, match=f"the files in {prepared} are missing, incomplete or broken .*download: true"
    ):
        glyphs(datasets=datasets, kshot={"support": 1, "query": 1}, cache="none").setup()


@pytest.mark.parametrize(
    "transforms", [[Resize([0, 28]), ToTensor()], [Lambda(lambda image: Path("/nowhere", image.mode).read_text())]]
)
@pytest.mark.parametrize("cache", ["memory", "none"])
def test_what_a_transform_raises_is_not_taken_for_a_broken_dataset(
    prepared: Path, requests: list[str], transforms: Any, cache: str
) -> None:
    state = {path: path.stat().st_mtime_ns for path in (prepared / "omniglot").iterdir()}
    datasets = {
        split: partial(Omniglot, root=str(prepared), download=True, meta_split=split)
        for split in ("train", "val", "test")
    }
    data = glyphs(datasets=datasets, kshot={"support": 1, "query": 1}, transforms=transforms, cache=cache)
    with pytest.raises((ValueError, FileNotFoundError), match="must be > 0|/nowhere") as error:
        next(iter(data.train_dataloader()))
    assert not isinstance(error.value, SettingError) and requests == []
    assert state == {path: path.stat().st_mtime_ns for path in (prepared / "omniglot").iterdir()}


def test_a_system_without_symbolic_links_prepares_the_same(
    prepared: Path, requests: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EINVAL, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refused)
    root = tmp_path / "root"
    ensure_prepared(omniglot(root), SETTING)
    assert content(root) == content(prepared)
    assert all((root / "omniglot" / f"{name}.zip").is_file() for name in OmniglotClassDataset.zips_md5)
    assert set(FILES) < {path.name for path in (root / "omniglot").iterdir()}


@pytest.mark.parametrize("archive", ["images_background.zip", "images_evaluation.zip"])
def test_a_damaged_archive_is_fetched_again(tmp_path: Path, archives: Path, requests: list[str], archive: str) -> None:
    shutil.copytree(archives, tmp_path / "omniglot")
    (tmp_path / "omniglot" / archive).write_bytes(b"half of it")
    ensure_prepared(omniglot(tmp_path), SETTING)
    assert set(requests) == {f"/{archive}"}


def test_archives_put_there_by_hand_are_used(tmp_path: Path, archives: Path, requests: list[str]) -> None:
    shutil.copytree(archives, tmp_path / "omniglot")
    ensure_prepared(omniglot(tmp_path), SETTING)
    assert requests == []


def test_a_download_that_fails_leaves_what_was_there_and_says_what_to_do(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OmniglotClassDataset, "download_url_prefix", "http://127.0.0.1:9")
    for file in (prepared / "omniglot").glob("*.zip"):
        file.unlink()
    broken = prepared / "omniglot/data.hdf5"
    broken.write_bytes(b"not a dataset")
    with pytest.raises(SettingError) as error:
        ensure_prepared(omniglot(prepared), SETTING)
    for part in ("images_background.zip", str(prepared / "omniglot"), "https://github.com/brendenlake/omniglot"):
        assert part in str(error.value)
    assert broken.read_bytes() == b"not a dataset"


def test_a_killed_preparation_is_swept_away(tmp_path: Path, archives: Path, requests: list[str]) -> None:
    left = tmp_path / ".preparing/omniglot"
    left.mkdir(parents=True)
    (left / "data.hdf5").write_bytes(b"half")
    (left / "images_background.zip").write_bytes((archives / "images_background.zip").read_bytes())
    (left / "images_evaluation.zip").write_bytes(b"half")
    ensure_prepared(omniglot(tmp_path), SETTING)
    assert len(Omniglot(str(tmp_path), 5, meta_val=True).dataset) == 8
    assert not (tmp_path / ".preparing").exists()
    assert set(requests) == {"/images_evaluation.zip"}  # an archive that is whole is not fetched again


def test_one_of_many_prepares_and_the_others_wait_and_say_so(
    tmp_path: Path, requests: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    threads = [threading.Thread(target=ensure_prepared, args=(omniglot(tmp_path), SETTING)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(requests) == 4  # torchvision asks twice for each of two archives
    said = [record.getMessage().partition(" Omniglot")[0] for record in caplog.records]
    assert sorted(said) == ["preparing", *["waiting for another process that is preparing"] * 3]


def test_what_was_prepared_trains_the_same_with_and_without_a_cache(prepared: Path) -> None:
    settings: dict[str, Any] = {
        "datasets": {
            split: partial(Omniglot, root=str(prepared), **{f"meta_{split}": True})
            for split in ("train", "val", "test")
        },
        "kshot": {"support": 2, "query": 2},
    }
    one, other = (glyphs(**settings, cache=cache).test_dataloader() for cache in ("memory", "none"))
    assert same(batches(one), batches(other))
