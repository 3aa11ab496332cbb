"""The outer loop as a LightningModule, and what belongs to a fit: metrics, checkpoints, checks before it begins."""

from lightning_maml.training.checkpoint_checks import can_be_tested, check_checkpoint, read_checkpoint
from lightning_maml.training.checkpoints import AtomicCheckpointIO, Checkpoint
from lightning_maml.training.interruption import Interruption
from lightning_maml.training.metrics import ci95
from lightning_maml.training.network_checks import check_adaptation, check_network, prepare_network
from lightning_maml.training.optimizers import check_optimizers
from lightning_maml.training.outer_loop import OuterLoop
from lightning_maml.training.resumption import Resumption
from lightning_maml.training.trainer import check_trainer_settings, make_trainer

__all__ = [
    "AtomicCheckpointIO",
    "Checkpoint",
    "Interruption",
    "OuterLoop",
    "Resumption",
    "can_be_tested",
    "check_adaptation",
    "check_checkpoint",
    "check_network",
    "check_optimizers",
    "check_trainer_settings",
    "ci95",
    "make_trainer",
    "prepare_network",
    "read_checkpoint",
]
