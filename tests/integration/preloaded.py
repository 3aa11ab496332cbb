"""What the forks of `command.program` start with; importing it does nothing else."""

import wandb  # noqa: F401

from lightning_maml import algorithms, data, few_shot, inner_loops, models, reports, training  # noqa: F401
