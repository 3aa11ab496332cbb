"""Whether a checkpoint fits the learner it is meant for, told before anything is loaded into it."""

from collections.abc import Mapping

from lightning_maml.algorithms.outer_loop import OuterLoop
from lightning_maml.checkpoint_files import load_whole, reading
from lightning_maml.settings import SettingError

_SETTING = "train.ckpt_path"


def check_checkpoint(path: str, shapes: Mapping[str, tuple[int, ...]], algorithm: OuterLoop) -> None:
    """Compare a checkpoint's weights with the algorithm's, name by name and shape by shape.

    Args:
        path: the checkpoint.
        shapes: its `checkpoint_shapes`.
        algorithm: what is to go on from it.

    Raises:
        SettingError: if it holds another network or another number of outputs.
    """
    wanted = {name: tuple(value.shape) for name, value in algorithm.state_dict().items()}
    if shapes == wanted:
        return
    different = [name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name)]
    heads = [name for name in different if ".head." in name and name in wanted and name in shapes]
    if len(heads) == len(different) and all(shapes[name][1:] == wanted[name][1:] for name in heads):
        ways, needed = shapes[heads[0]][0], wanted[heads[0]][0]
        raise SettingError(
            _SETTING,
            path,
            f"it was trained with {ways} outputs, this run has {needed}; set data.datamodule.nway={ways}",
        )
    name = min(different)
    raise SettingError(
        _SETTING,
        path,
        f"it was trained for another network ({name} is {shapes.get(name, 'absent')} there, "
        f"{wanted.get(name, 'absent')} here); give the model=, data= and algorithm= overrides that it was trained with",
    )


def checkpoint_shapes(path: str | None) -> dict[str, tuple[int, ...]]:
    """The shape of each weight in a checkpoint.

    Raises:
        SettingError: if the file is missing, or is no checkpoint of this project.
    """
    if path is None:
        raise SettingError(_SETTING, None, "with train.fit=false, give the checkpoint to test")
    with reading(_SETTING, path, "checkpoint of a run", "a run keeps its own in checkpoints/last.ckpt"):
        checkpoint = load_whole(path)
        checkpoint["pytorch-lightning_version"], checkpoint["loops"]  # what Lightning will ask for
        return {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
