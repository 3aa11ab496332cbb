"""Which of several processes this is, where torchrun, SLURM or Lightning has started it with others.

Imports nothing heavy.
"""

import atexit
import os
import shutil
from collections.abc import Sequence
from tempfile import mkdtemp

# torchrun's, SLURM's, and what Lightning gives to the processes that it starts
_COUNTS = ("WORLD_SIZE", "SLURM_NTASKS")
_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")


def rank() -> int:
    """This process's number, 0 where it is the first or the only one. Of those that only know their number on their
    own machine, that one."""
    return next((number for name in _RANKS if (number := int(os.environ.get(name) or 0)) > 0), 0)


def started_by_lightning() -> bool:
    """Whether this is one of the processes that Lightning starts beside the first."""
    return rank() > 0 and not {"RANK", "SLURM_PROCID"} & os.environ.keys()


def several() -> bool:
    """Whether others have started this process with others, each of which runs the whole command."""
    return any(int(os.environ.get(name) or 1) > 1 for name in _COUNTS)


def overrides_of_rank(arguments: Sequence[str]) -> list[str]:
    """What Hydra is told besides in a process that is not the first: that the run's folder is not its to write.

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
