"""Texts from a folder to a classifier of somebody's own."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_maml.few_shot import FewShotLearner
from tests.integration.command import program, run
from tests.unit.data.sources.test_text_folder import WORDS, written

SMALL = (
    *("data=text_folder", "model=text_cnn", "logging=csv", "data.vocabulary=60", "inner_loop=vectorized"),
    *("algorithm=protonet", "data.datamodule.nway=2", "train.pl_trainer.max_epochs=1"),
    *("data.datamodule.kshot={support:3,query:3}", "data.datamodule.batches={train:40,val:2,test:5}"),
    "optim.outer_optimizer.lr=0.02",
)


def test_token_ids_train_and_adapt_end_to_end(tmp_path: Path) -> None:
    root = written(tmp_path / "texts", classes=20)
    done = run(*SMALL, f"data.root={root}", folder=tmp_path / "run")
    assert done.returncode == 0, done.stderr
    learner = FewShotLearner.load(tmp_path / "run/checkpoints/best.ckpt")
    texts = [f"The {word} one, number {number} of text 9!" for number in range(3) for word in WORDS[:2]]
    classifier = learner.adapt(texts, WORDS[:2] * 3)
    found = classifier.classify(["The green one, number 7 of text 3!", "The red one, number 5 of text 2!"])
    assert [one.label for one in found] == ["green", "red"]
    with pytest.raises(ValueError, match="trained on texts"):
        classifier.classify([torch.zeros(3).numpy()])
    for name in ("support/a", "support/b"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / name / "0.png")
    asked = (f"{name}={tmp_path / path}" for name, path in (("support", "support"), ("query", "support/a/0.png")))
    refused = program("src/adapt.py", f"ckpt={tmp_path / 'run/checkpoints/best.ckpt'}", *asked)
    assert refused.returncode == 1 and "it was trained on texts; in Python" in refused.stderr, refused.stderr
