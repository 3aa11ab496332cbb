"""What is learned and adapted (learners), and the outer loop around it."""

from lightning_maml.algorithms.checkpoint import check_checkpoint
from lightning_maml.algorithms.maml import MAML
from lightning_maml.algorithms.outer_loop import OuterLoop, ci95
from lightning_maml.algorithms.trainer_settings import check_trainer_settings

__all__ = ["MAML", "OuterLoop", "check_checkpoint", "check_trainer_settings", "ci95"]
