"""Which of several processes this is, where torchrun, SLURM or Lightning has started it with others.

Imports nothing heavy.
"""

import atexit
import os
import shutil
from collections.abc import Sequence
from tempfile import mkdtemp

from lightning_maml.files import rank

_COUNTS = ("WORLD_SIZE", "SLURM_NTASKS")


def several() -> bool:
    """Return whether torchrun or SLURM has started several processes, each of which runs the whole command."""
    return any(int(os.environ.get(name) or 1) > 1 for name in _COUNTS)


def overrides_of_rank(arguments: Sequence[str]) -> list[str]:
    """Return extra Hydra overrides for ranks > 0, which do not write the run's folder.

    A folder named by the time would differ from that of the first process by a second; if the command line gives none,
    Hydra gets a temporary one.
    """
    if rank() == 0:
        return []
    overrides = ["hydra.output_subdir=null"]
    for setting in ("hydra.run.dir", "hydra.sweep.dir"):
        if not any(argument.lstrip("+").startswith(f"{setting}=") for argument in arguments):
            folder = mkdtemp()
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            overrides.append(f'{setting}="{folder}"')
    return overrides
