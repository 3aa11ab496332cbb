"""Tiny datasets in the very formats that torchmeta leaves behind, with the classes that its splits name."""

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image
from torchmeta.datasets.utils import get_asset

SPLITS = ("train", "val", "test")
_RNG = np.random.Generator(np.random.Philox(key=3))


def pixels(*shape: int) -> np.ndarray:
    return _RNG.integers(256, size=shape, dtype=np.uint8)


def encoded(form: str, *shape: int) -> np.ndarray:
    """An image file's bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels(*shape)).save(file, form)
    return np.frombuffer(file.getvalue(), dtype=np.uint8)


def write(name: str, root: Path, samples: int) -> None:
    """Write the dataset of `conf/data/NAME.yaml` with `samples` samples a class."""
    _WRITERS[name](root, samples)


def _miniimagenet(root: Path, samples: int) -> None:
    """One HDF5 file a split; a class is an array of images."""
    for split in SPLITS:
        names = [f"n{split}{index}" for index in range(5)]
        _write_split(root / "miniimagenet", split, {name: pixels(samples, 84, 84, 3) for name in names})


def _tieredimagenet(root: Path, samples: int) -> None:
    """PNG files as bytes, with the superclass as an attribute."""
    for split in SPLITS:
        classes = {f"{split}{index}": [encoded("png", 84, 84, 3) for _ in range(samples)] for index in range(5)}
        _write_split(root / "tieredimagenet", split, classes, label_general="animal")


def _cub(root: Path, samples: int) -> None:
    """JPEG files as bytes, of any size."""
    for split in SPLITS:
        names = get_asset("cub", f"{split}.json")[:5]
        classes = {name: [encoded("jpeg", 90 + index, 120, 3) for index in range(samples)] for name in names}
        _write_split(root / "cub", split, classes)


def _digits(name: str, side: int) -> Any:
    def writer(root: Path, samples: int) -> None:
        for split in SPLITS:
            names = get_asset(name, f"{split}.json")[:5]
            _write_split(root / name, split, {n: [encoded("png", side, side) for _ in range(samples)] for n in names})

    return writer


def _cifar100(subfolder: str) -> Any:
    """All classes in one file, by superclass; the splits are lists of pairs."""

    def writer(root: Path, samples: int) -> None:
        folder = root / "cifar100"
        (folder / subfolder).mkdir(parents=True)
        with h5py.File(folder / "data.hdf5", "w") as file:
            names = {}
            for split in SPLITS:
                pairs = [[f"coarse {split}", f"{split} {index}"] for index in range(5)]
                (folder / subfolder / f"{split}_labels.json").write_text(json.dumps(pairs))
                names[f"coarse {split}"] = [fine for _, fine in pairs]
                for coarse, fine in pairs:
                    file.create_dataset(f"{coarse}/{fine}", data=pixels(samples, 32, 32, 3))
        (folder / "fine_names.json").write_text(json.dumps(names))

    return writer


def _omniglot(root: Path, samples: int) -> None:
    folder = root / "omniglot"
    folder.mkdir(parents=True)
    with h5py.File(folder / "data.hdf5", "w") as file:
        for split in SPLITS:
            labels = [["images_background", "Greek", f"{split}{index}"] for index in range(5)]
            (folder / f"vinyals_{split}_labels.json").write_text(json.dumps(labels))
            for label in labels:
                file.create_dataset("/".join(label), data=pixels(samples, 105, 105))


def _table(folder: str, features: int) -> Any:
    def writer(root: Path, samples: int) -> None:
        for split in SPLITS:
            names = get_asset(folder, f"{split}.json")[:5]
            _write_split(root / folder, split, {name: _RNG.random((samples, features)) for name in names})
        (root / folder / "features_lower_upper.json").write_text(json.dumps({"lower": [0.0], "upper": [1.0]}))

    return writer


def _text_folder(root: Path, samples: int) -> None:
    for split in ("train", "val", "test"):
        (root / "texts" / split).mkdir(parents=True)
        for number in range(4):
            lines = [f"text {sample} of class {number} in {split}" for sample in range(samples)]
            (root / "texts" / split / f"class{number}.txt").write_text("\n".join(lines), encoding="utf-8")


def _image_folder(root: Path, samples: int) -> None:
    for split in SPLITS:
        for index in range(5):
            folder = root / "images" / split / f"class{index}"
            folder.mkdir(parents=True)
            for sample in range(samples):
                Image.fromarray(pixels(20 + sample, 30, 3)).save(folder / f"{sample}.jpg")


def _write_split(folder: Path, split: str, classes: dict[str, Any], **attributes: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}_labels.json").write_text(json.dumps(list(classes)))
    with h5py.File(folder / f"{split}_data.hdf5", "w") as file:
        group = file.create_group("datasets")
        for name, samples in classes.items():
            if isinstance(samples, np.ndarray):
                dataset = group.create_dataset(name, data=samples)
            else:
                dataset = group.create_dataset(name, (len(samples),), dtype=h5py.special_dtype(vlen=np.uint8))
                for index, sample in enumerate(samples):
                    dataset[index] = sample
            dataset.attrs.update(attributes)


_WRITERS: dict[str, Any] = {
    "omniglot": _omniglot,
    "miniimagenet": _miniimagenet,
    "tieredimagenet": _tieredimagenet,
    "cub": _cub,
    "doublemnist": _digits("doublemnist", 64),
    "triplemnist": _digits("triplemnist", 84),
    "cifar_fs": _cifar100("cifar-fs"),
    "fc100": _cifar100("fc100"),
    "letter": _table("letter", 16),
    "plants_margin": _table("one_hundred_plants_margin", 64),
    "plants_shape": _table("one_hundred_plants_shape", 64),
    "plants_texture": _table("one_hundred_plants_texture", 64),
    "image_folder": _image_folder,
    "text_folder": _text_folder,
}
NAMES = tuple(_WRITERS)
