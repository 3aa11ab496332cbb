"""A network that notes how many threads it may use."""

import os
from pathlib import Path

import torch

from lightning_maml.models import Conv4


class CountsThreads(Conv4):
    """Leaves a file in `folder`, named after its process."""

    def __init__(self, input_shape: tuple[int, ...], num_outputs: int, *, folder: str, **settings: int) -> None:
        super().__init__(input_shape, num_outputs, **settings)
        Path(folder, f"threads-{os.getpid()}").write_text(str(torch.get_num_threads()))
