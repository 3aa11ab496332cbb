"""train.deterministic=true: the same weights, bit for bit."""

from pathlib import Path

from tests.integration.command import fresh, succeed, tiny
from tests.integration.ends import end_of, same_state

RANDOM = (
    "data.datamodule.transforms=[{_target_: torchvision.transforms.RandomAffine, degrees: 20}, "
    "{_target_: torchvision.transforms.ToTensor}]"
)
SETTINGS = tiny("logging=csv", "train.deterministic=true", "data.datamodule.cache=none", RANDOM, "train.test=false")


def workers(number: int) -> list[str]:
    return [f"data.datamodule.num_workers.{split}={number}" for split in ("train", "val", "test")]


def test_two_runs_with_none_and_with_four_workers_are_the_same(tmp_path: Path) -> None:
    """Their images are turned at random when they are loaded."""
    for name, number in (("one", 0), ("again", 0), ("four", 4)):
        succeed(*SETTINGS, *workers(number), folder=tmp_path / name)
    assert same_state(end_of(tmp_path / "one"), end_of(tmp_path / "again"))
    assert same_state(end_of(tmp_path / "one"), end_of(tmp_path / "four"))
    succeed(*SETTINGS, "train.seed=1", folder=tmp_path / "other")
    assert not same_state(end_of(tmp_path / "one"), end_of(tmp_path / "other"))


def test_images_loaded_by_one_thread_and_by_two_are_the_same(tmp_path: Path) -> None:
    """A worker has one thread, a process that loads for itself as many as it computes with."""
    for number in (0, 1):
        where = f"hydra.run.dir={tmp_path / str(number)}"
        done = fresh(*SETTINGS, *workers(number), where, OMP_NUM_THREADS="2", MKL_NUM_THREADS="2")
        assert done.returncode == 0, done.stdout + done.stderr
    assert same_state(end_of(tmp_path / "0"), end_of(tmp_path / "1"))
