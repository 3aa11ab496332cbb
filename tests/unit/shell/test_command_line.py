"""What happens between the shell and Hydra."""

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from lightning_maml.shell import command_line  # noqa: F401  # registers the resolvers


@pytest.mark.parametrize(
    ("batches", "accumulate", "max_epochs", "max_steps", "expected"),
    [(100, 1, 5, -1, 500), ({"train": 10}, 4, 3, -1, 9), (100, 1, 5, 20, 20), (100, 1, -1, 70, 70)],
)
def test_meta_updates_counts_those_of_the_fit(
    batches: object, accumulate: int, max_epochs: int, max_steps: int, expected: int
) -> None:
    cfg = OmegaConf.create(
        {
            "data": {"datamodule": {"batches": batches}},
            "algorithm": {"accumulate": accumulate},
            "train": {"pl_trainer": {"max_epochs": max_epochs, "max_steps": max_steps}},
            "n": "${meta_updates:}",
        }
    )
    assert cfg.n == expected


def test_the_old_environment_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASET_PATH", "/some/where")
    assert OmegaConf.create({"root": "${env:DATASET_PATH}"}).root == "/some/where"
    monkeypatch.delenv("DATASET_PATH")
    with pytest.raises(InterpolationResolutionError, match="'DATASET_PATH' not found"):
        print(OmegaConf.create({"root": "${env:DATASET_PATH}"}).root)
