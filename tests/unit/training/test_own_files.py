"""Paths in a checkpoint that anybody may have written."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_maml.training import check_checkpoint
from tests.integration.ends import same_state
from tests.unit.training.test_checkpoint_checks import algorithm, meta_batches, stopped, trainer

__all__ = ["stopped"]  # a fixture


def hostile(state: dict[str, Any], path: str) -> dict[str, Any]:
    """A callback's state, with that path as each of its files, to be the next that is deleted; and in all its texts."""
    told = {name: path if isinstance(value, str) else value for name, value in state.items()}
    best: Any = {"best_model_score": None, "best_k_models": {path: torch.tensor(float("inf"))}}
    paths = dict.fromkeys(("best_model_path", "kth_best_model_path", "last_model_path"), path)
    return told | paths | best | {"dirpath": state.get("dirpath")}


@pytest.mark.parametrize(
    "address", ["local://{}", "{}", "file://{}", "http://127.0.0.1:{port}/x", "{}/checkpoints/../../kept"]
)
def test_no_path_of_a_checkpoint_is_deleted_or_asked_for(stopped: Path, tmp_path: Path, address: str) -> None:
    victim = tmp_path / "kept"
    (victim / "inside").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        path = address.format(victim, port=server.getsockname()[1])
        checkpoint = torch.load(stopped, weights_only=True)
        states = checkpoint["callbacks"]
        assert len(states) == 6  # all but Resumption, which has none
        run = tmp_path / "run"
        for name, state in states.items():
            states[name] = hostile(
                {**state, "dirpath": str(run / "checkpoints")} if "dirpath" in state else state, path
            )
        checkpoint |= {"recipe": {"network": path}, "hyper_parameters": {"path": path}, "wandb": {"id": path}}
        torch.save(checkpoint, tmp_path / "last.ckpt")
        resumed = trainer(run, max_epochs=4)
        check_checkpoint(str(tmp_path / "last.ckpt"), algorithm(), resumed)
        resumed.fit(algorithm(), datamodule=meta_batches(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert (victim / "inside").is_dir() and resumed.global_step == 8
    assert {one.name for one in tmp_path.iterdir()} == {"kept", "run", "last.ckpt"}


def test_a_run_that_is_resumed_in_its_folder_goes_on_deleting_its_own_files(tmp_path: Path) -> None:
    trainer(tmp_path).fit(algorithm(), datamodule=meta_batches())
    last = tmp_path / "checkpoints/last.ckpt"
    assert (tmp_path / "checkpoints/theirs-step=2.ckpt").exists()
    trainer(tmp_path, max_epochs=4).fit(algorithm(), datamodule=meta_batches(), ckpt_path=last, weights_only=True)
    kept = {path.name for path in last.parent.glob("theirs*")}
    assert kept == {f"theirs-step={step}.ckpt" for step in (4, 6, 8)}  # as with Lightning's own loading
    trainer(tmp_path / "whole", max_epochs=4).fit(algorithm(), datamodule=meta_batches())
    one, other = (torch.load(path / "checkpoints/last.ckpt") for path in (tmp_path, tmp_path / "whole"))
    assert same_state(one["state_dict"], other["state_dict"])
