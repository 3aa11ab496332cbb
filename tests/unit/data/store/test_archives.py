"""Archives of strangers: torchmeta's own code extracts them, and nothing leaves their folder, or runs."""

import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from torchmeta.datasets import CIFARFS, CUB, MiniImagenet, Omniglot, TieredImagenet
from torchmeta.datasets.cifar100.base import CIFAR100ClassDataset
from torchmeta.datasets.cub import CUBClassDataset
from torchmeta.datasets.miniimagenet import MiniImagenetClassDataset
from torchmeta.datasets.omniglot import OmniglotClassDataset
from torchmeta.datasets.tieredimagenet import TieredImagenetClassDataset

from lightning_maml.data.store.archives import load_values
from lightning_maml.data.store.preparation import ensure_prepared
from lightning_maml.errors import SettingError

TARS = {
    "MiniImagenet": (MiniImagenet, MiniImagenetClassDataset, "gz_filename", "gz_md5"),
    "TieredImagenet": (TieredImagenet, TieredImagenetClassDataset, "tar_filename", "tar_md5"),
    "CUB": (CUB, CUBClassDataset, "tgz_filename", "tgz_md5"),
    "CIFARFS": (CIFARFS, CIFAR100ClassDataset, None, "gz_md5"),
}
extracts = pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="no tar is extracted before Python 3.11.4")


class Runs:
    """What runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def put(root: Path, name: str, members: dict[str, bytes | tarfile.TarInfo], patch: Callable[..., None]) -> Any:
    """An archive where the dataset's own lies, with its checksum; what makes the dataset from it."""
    make, classes, filename, checksum = TARS[name]
    path = root / classes.folder / (getattr(classes, filename) if filename else f"{classes.gz_folder}.tar.gz")
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = member
                archive.addfile(content)
            else:
                information = tarfile.TarInfo(member)
                information.size = len(content)
                archive.addfile(information, io.BytesIO(content))
    patch(classes, checksum, hashlib.md5(path.read_bytes()).hexdigest())
    return partial(make, root=str(root), meta_train=True, download=True)


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> Callable[[Path], tarfile.TarInfo]:
    def made(outside: Path) -> tarfile.TarInfo:
        information = tarfile.TarInfo()
        information.type, information.linkname = kind, target.format(outside=outside)
        return information

    return made


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


@extracts
@pytest.mark.parametrize("name", TARS)
@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"../../../outside/ran": b""}, "outside the destination"),
        ({"/{outside}/ran": b""}, ""),  # loses its slash, and lies in the folder
        ({"a": link("{outside}/secret")}, "'a' is a link to an absolute path"),
        ({"a": link("{outside}/secret", tarfile.LNKTYPE)}, "'a' is a link to an absolute path"),
        ({"a": link("../../../outside"), "a/ran": b""}, "'a' would link to .* outside the destination"),
        ({"a/b": link("../c")}, "'a/b' would link to"),  # a way past the filters of older Pythons
        ({"a": link("", tarfile.FIFOTYPE)}, "'a' is a special file"),
    ],
    ids=["dots", "absolute", "symbolic link", "hard link", "through a link", "up", "device"],
)
def test_what_would_leave_the_folder_of_a_tar_is_refused(
    tmp_path: Path, name: str, members: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"it is")
    here = {
        member.format(outside=outside): content(outside) if callable(content) else content
        for member, content in members.items()
    }
    make = put(tmp_path / "data", name, here, monkeypatch.setattr)
    before = files(tmp_path)
    with pytest.raises(SettingError, match=f"^data=.*preparing it failed .*{said}"):
        ensure_prepared(make, "data")
    assert files(tmp_path) - {"data/.preparing.lock"} == before and (outside / "secret").read_bytes() == b"it is"


@pytest.mark.parametrize(
    "name", ["../../../outside", "/{outside}", "a/../../../../outside", "images_background/../../x"]
)
def test_what_would_leave_the_folder_of_a_zip_lies_in_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`zipfile` drops what leads out of the folder; where files land is seen before they are swept away."""
    folder = tmp_path / "data/omniglot"
    folder.mkdir(parents=True)
    checksums = {}
    for part in OmniglotClassDataset.zips_md5:
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            archive.writestr(name.format(outside=tmp_path / "outside"), b"")
        checksums[part] = hashlib.md5((folder / f"{part}.zip").read_bytes()).hexdigest()
    monkeypatch.setattr(OmniglotClassDataset, "zips_md5", checksums)
    extract, landed = zipfile.ZipFile.extractall, []

    def watched(self: zipfile.ZipFile, path: str) -> None:
        before = files(tmp_path)
        extract(self, path)
        landed.extend(tmp_path / new for new in files(tmp_path) - before)

    monkeypatch.setattr(zipfile.ZipFile, "extractall", watched)
    before = files(tmp_path)
    with pytest.raises(SettingError, match="^data=.*preparing it failed"):
        ensure_prepared(partial(Omniglot, root=str(tmp_path / "data"), meta_train=True, download=True), "data")
    assert landed and all(path.is_relative_to(tmp_path / "data/.preparing/omniglot") for path in landed)
    assert files(tmp_path) - {"data/.preparing.lock"} == before


@extracts
@pytest.mark.parametrize(
    ("name", "pickled"),
    [
        ("MiniImagenet", "mini-imagenet-cache-train.pkl"),
        ("TieredImagenet", "tiered-imagenet/train_images_png.pkl"),
        ("CIFARFS", "cifar-100-python/train"),
    ],
)
def test_a_pickle_in_an_archive_runs_nothing(
    tmp_path: Path, name: str, pickled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = pickle.dumps({"image_data": Runs(tmp_path / "ran"), "class_dict": {}})
    make = put(tmp_path / "data", name, {pickled: evil}, monkeypatch.setattr)
    with pytest.raises(SettingError, match=r"a pickle in the archive would run (pathlib|builtins)\."):
        ensure_prepared(make, "data")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", TARS)
def test_a_python_whose_tarfile_has_no_filters_extracts_no_tar(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian 12's Python is 3.11.2."""
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    make = put(tmp_path / "data", name, {"../../../ran": b"", "ran": b""}, monkeypatch.setattr)
    before = files(tmp_path)
    with pytest.raises(SettingError, match=r"^data=.*preparing it failed .*Python 3\.11\.4"):
        ensure_prepared(make, "data")
    assert files(tmp_path) - {"data/.preparing.lock"} == before


@extracts
def test_an_archive_as_it_should_be_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(256, size=(6, 84, 84, 3), dtype=np.uint8)
    content = pickle.dumps({"image_data": images, "class_dict": {"n1": [0, 2, 4], "n2": [1, 3, 5]}}, protocol=2)
    members = {f"mini-imagenet-cache-{split}.pkl": content for split in ("train", "val", "test")}
    ensure_prepared(put(tmp_path, "MiniImagenet", members, monkeypatch.setattr), "data")
    with h5py.File(tmp_path / "miniimagenet/train_data.hdf5") as file:
        assert np.array_equal(file["datasets/n2"][()], images[1::2])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_values_are_unpickled(protocol: int) -> None:
    values = {
        "arrays": [np.arange(6).reshape(2, 3), np.asfortranarray(np.ones((2, 3))), np.frombuffer(b"png", np.uint8)],
        "scalars": [np.int64(3), np.float32(0.5), np.bool_(True)],
        "plain": {b"bytes": ["text", 1, 2.5, None, (True, {})]},
    }
    file = io.BytesIO(pickle.dumps(values, protocol))
    found = load_values(file)
    assert found["plain"] == values["plain"] and found["scalars"] == values["scalars"]
    assert all(np.array_equal(one, other) for one, other in zip(found["arrays"], values["arrays"], strict=True))


def test_a_pickle_of_python_2() -> None:
    """CIFAR-100's are such: `{'data': array}`, with `str` for bytes."""
    python2 = (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x02\x07\xc8tbs."
    )
    found = load_values(io.BytesIO(python2), encoding="bytes")
    assert found[b"data"].tolist() == [7, 200]
