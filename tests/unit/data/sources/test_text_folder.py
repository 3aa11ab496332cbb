"""Texts: from files to token ids to tasks, training and adaptation."""

import zlib
from functools import partial
from pathlib import Path

import pytest
import torch
from torchmeta.transforms import Categorical

from lightning_maml.data import HashedWords, MetaDataModule, TextFolder
from lightning_maml.errors import SettingError
from lightning_maml.models import TextCNN

WORDS = ["red", "green", "blue", "north", "south", "east", "west", "bread", "salt", "water"]


def written(folder: Path, classes: int = 10, texts: int = 8) -> Path:
    """A file for each class, whose texts all have its word among others."""
    folder.mkdir(exist_ok=True)
    for number in range(classes):
        lines = [f"The {WORDS[number % 10]} one, number {number} of text {text}!" for text in range(texts)]
        (folder / f"class{number}.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return folder


def data(root: Path) -> MetaDataModule:
    return MetaDataModule(
        datasets={
            f"{split}": partial(TextFolder, str(root), **{f"meta_{split}": True}) for split in ("train", "val", "test")
        },
        kshot={"support": 2, "query": 3},
        nway=2,
        transforms=[HashedWords(length=9, vocabulary=50)],
        target_transform=Categorical(2),
        cache="memory",
    )


def test_ids_are_hashes_of_words_then_zeros() -> None:
    ids = HashedWords(length=6, vocabulary=100)("Été, été  x")
    expected = [1 + zlib.crc32(word.encode()) % 99 for word in ("été", ",", "été", "x")]
    assert ids.tolist() == [*expected, 0, 0] and ids.dtype == torch.int64
    assert HashedWords(length=2, vocabulary=100)("a b c").tolist() == [
        1 + zlib.crc32(b"a") % 99,
        1 + zlib.crc32(b"b") % 99,
    ]
    assert set(HashedWords(length=50, vocabulary=2)("many words").tolist()) == {0, 1}


def test_tasks_are_of_the_texts_of_each_class(tmp_path: Path) -> None:
    module = data(written(tmp_path))
    episodes = module.example("train")
    assert episodes.support_x.shape == (1, 4, 9) and episodes.support_x.dtype == torch.int64
    assert module.input_shape == (9,)
    known = {
        tuple(HashedWords(9, 50)(line).tolist()) for f in tmp_path.glob("*.txt") for line in f.read_text().split("\n")
    }
    assert {tuple(row.tolist()) for row in episodes.support_x[0]} <= known
    sizes = [
        len(TextFolder(str(tmp_path), 2, **{f"meta_{split}": True}).dataset.labels)
        for split in ("train", "val", "test")
    ]
    assert sizes == [6, 2, 2]


def test_folders_for_the_splits(tmp_path: Path) -> None:
    for split, classes in (("train", 4), ("val", 2), ("test", 3)):
        written(tmp_path / split, classes)
    assert len(TextFolder(str(tmp_path), 2, meta_test=True).dataset.labels) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff\xfe\x00", "this file is not UTF-8"), (b" \n\n", "there is no text in it"), (None, "no .txt files")],
)
def test_files_that_hold_no_texts(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (written(tmp_path) / "class3.txt").write_bytes(content)
    with pytest.raises(SettingError, match=f"root=.*{said}"):
        TextFolder(str(tmp_path), 2, meta_train=True, ratio=(1.0, 0.0, 0.0))


@pytest.mark.parametrize("shape", [(1, 28, 28), (4,)])
def test_a_text_cnn_wants_token_ids(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match=r"input_shape=.*token ids, \[length\] with a length of at least 5"):
        TextCNN(shape, 2)


def test_the_text_cnn_is_kims() -> None:
    torch.manual_seed(0)
    network, tokens = (
        TextCNN((7,), 3, vocabulary=20, embedding_size=4, num_filters=2, widths=(2, 3)),
        torch.arange(7)[None],
    )
    words, features = network.body[0].weight[:7], []
    for convolution in network.body[1].convolutions:
        width = convolution.kernel_size[0]
        windows = [(convolution.weight * words[at : at + width].T).sum(dim=(1, 2)) for at in range(8 - width)]
        features.append(torch.stack(windows).add(convolution.bias).relu().amax(dim=0))
    torch.testing.assert_close(network(tokens)[0], network.head(torch.cat(features)))
