"""Settings of the data that cannot work, each told in one line."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import h5py
import pytest
from torch import Tensor
from torch.utils.data import get_worker_info

from lightning_maml.data import Glyphs, headline
from lightning_maml.errors import SettingError
from tests.paths import DATASET_PATH, ROOT
from tests.unit.data.test_tasks import glyphs, omniglot


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nway": 0}, "nway=0: must be at least 1"),
        ({"nway": -5}, "nway=-5"),
        ({"nway": 2.5}, "nway=2.5: must be a valid integer or a mapping"),
        ({"nway": True}, "nway=True"),
        ({"kshot": {"support": 0, "query": 5}}, "kshot.support=0"),
        ({"kshot": {"support": 5, "query": -1}}, "kshot.query=-1"),
        ({"batch_size": {"train": 4, "val": 0, "test": 4}}, "batch_size.val=0"),
        ({"batches": 0}, "batches=0"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused_when_built(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        glyphs(**settings)


@pytest.mark.parametrize(
    ("val", "message"),
    [
        (3, "=3: give a node with _target_, or a callable"),
        (None, "=None: give a node with _target_, or a callable"),
        (dict, "=dict: it takes no such arguments"),
        ({"_target_": "torch.nn.Linear"}, "=Linear: it is no meta-dataset"),
        (Glyphs, "=Glyphs: it takes one split; give it meta_val: true and no other"),
        (partial(Glyphs, meta_val=True, meta_test=True), "=Glyphs: it takes one split"),
        (partial(Glyphs, meta_split="valid"), "=Glyphs: it takes one split"),
        ({"_target_": "torchmeta.datasets.Omniglot", "meta_val": True, "root": None}, "=Omniglot: it takes no such"),
        ({"_target_": "torchmeta.datasets.Omniglot", "meta_val": True, "rot": "."}, "=Omniglot: it takes no such"),
    ],
)
def test_what_makes_no_dataset_of_a_split_is_refused(val: Any, message: str) -> None:
    datasets = {split: partial(Glyphs, meta_split=split) for split in ("train", "val", "test")} | {"val": val}
    with pytest.raises(SettingError, match=f"datasets.val{message}"):
        glyphs(datasets=datasets, cache="none").setup()


def test_more_ways_than_classes() -> None:
    with pytest.raises(SettingError, match="nway=100: the val split has 76 classes"):
        glyphs(nway=100).setup()


def test_more_shots_and_queries_than_samples() -> None:
    with pytest.raises(SettingError, match="support: 10, query: 11.*has 20 samples"):
        glyphs(kshot={"support": 10, "query": 11}).setup()
    glyphs(kshot={"support": 10, "query": 10}).setup()


def test_classification_without_a_number_of_ways() -> None:
    with pytest.raises(SettingError, match="nway=None"):
        glyphs(nway=None).setup()


def test_ways_and_shots_per_split() -> None:
    data = glyphs(
        nway={"train": 10, "val": 5, "test": 5}, kshot={"support": {"train": 3, "val": 1, "test": 1}, "query": 2}
    )
    assert [data.example(split).support_x.shape[1] for split in ("train", "val", "test")] == [30, 5, 5]
    assert data.num_outputs == 10
    tasks, classes = "10 / 5 / 5-way 3 / 1 / 1-shot, 2 queries", "440 / 76 / 112 classes in train / val / test"
    assert headline(data).startswith(tasks) and headline(data).endswith(classes)
    with pytest.raises(SettingError, match=r"nway=.*head has one width.*algorithm=protonet"):
        data.require_tasks_for(any_ways=False)


def absent(folder: Path, **settings: Any) -> Any:
    node = {"_target_": "torchmeta.datasets.Omniglot", "root": str(folder), "download": True, **settings}
    data = omniglot()
    data._datasets = {split: {**node, f"meta_{split}": True} for split in ("train", "val", "test")}
    return data


def test_a_failed_download_names_the_address_the_folder_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*args: Any, **kwargs: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchmeta.datasets.omniglot.download_url", no_network)
    with pytest.raises(SettingError) as error:
        absent(tmp_path).setup()
    for part in ("https://github.com/brendenlake/omniglot", str(tmp_path), "data=glyphs", "DATASET_PATH"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_no_data_and_no_download(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="download: true"):
        absent(tmp_path, download=False).setup()


@pytest.mark.omniglot
@pytest.mark.parametrize("damage", ["truncated", "empty", "half the characters", "no HDF5 at all"])
def test_a_half_written_dataset_is_recognized(tmp_path: Path, damage: str) -> None:
    shutil.copytree(DATASET_PATH / "omniglot", tmp_path / "omniglot")
    file = tmp_path / "omniglot" / "data.hdf5"
    file.chmod(0o644)
    if damage == "truncated":
        with file.open("r+b") as handle:
            handle.truncate(5_000_000)
    elif damage == "half the characters":
        with h5py.File(file, "r+") as handle:
            del handle["images_background/Greek"]
    else:
        file.write_bytes(b"" if damage == "empty" else b"not a dataset")
    with pytest.raises(SettingError, match="incomplete or broken") as error:
        absent(tmp_path, download=False).setup()
    assert str(tmp_path) in str(error.value)


def test_a_worker_that_fails_does_not_keep_the_process_from_ending() -> None:
    """The other worker waits for a word of the process, whose traceback still holds the loader."""
    code = (
        "import lightning_maml; from torchvision.transforms import ToTensor\n"
        "from tests.unit.data.test_datamodule import Failing; from tests.unit.data.test_tasks import glyphs\n"
        "if __name__ == '__main__':\n"
        "    data = glyphs(cache='none', transforms=[ToTensor(), Failing()], num_workers=2)\n"
        "    list(data.train_dataloader())"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr


def test_a_worker_is_deaf_to_a_cluster_from_its_birth() -> None:
    """SIGTERM from a third process, while the worker starts and when it has."""
    before = set(multiprocessing.active_children())
    for _ in range(3):
        meta_batches = iter(glyphs(cache="none", num_workers=1).train_dataloader())
        for _ in range(2):
            (worker,) = set(multiprocessing.active_children()) - before
            subprocess.run(["sh", "-c", f"kill -TERM {worker.pid}"], check=True)
            assert next(meta_batches).support_x.ndim == 5
        del meta_batches


class Failing:
    """Works in the process that trains, and fails in one of its workers."""

    def __call__(self, image: Tensor) -> Tensor:
        worker = get_worker_info()
        return image if worker is None or worker.id else image / (1 // 0)
