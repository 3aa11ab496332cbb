"""What is learned and adapted (learners), what is asked for (objectives), and the outer loop around it."""

from lightning_maml.algorithms.anil import ANIL
from lightning_maml.algorithms.boil import BOIL
from lightning_maml.algorithms.checkpoint import can_be_tested, check_checkpoint, read_checkpoint
from lightning_maml.algorithms.maml import MAML
from lightning_maml.algorithms.maml_pp import MAMLPlusPlus
from lightning_maml.algorithms.meta_sgd import MetaSGD
from lightning_maml.algorithms.metrics import ci95
from lightning_maml.algorithms.network_checks import check_adaptation, check_network
from lightning_maml.algorithms.network_learner import FeatureLearner, NetworkLearner
from lightning_maml.algorithms.objectives import (
    DomainGeneralizationLoss,
    FinalLoss,
    InnerLossOnly,
    MultiStepLoss,
    ObjectiveSchedule,
)
from lightning_maml.algorithms.outer_loop import OuterLoop
from lightning_maml.algorithms.protonet import ProtoNet
from lightning_maml.algorithms.r2d2 import R2D2
from lightning_maml.algorithms.trainer_settings import check_trainer_settings, make_trainer
from lightning_maml.algorithms.unicorn_maml import UnicornMAML

__all__ = [
    "ANIL",
    "BOIL",
    "MAML",
    "R2D2",
    "DomainGeneralizationLoss",
    "FeatureLearner",
    "FinalLoss",
    "InnerLossOnly",
    "MAMLPlusPlus",
    "MetaSGD",
    "MultiStepLoss",
    "NetworkLearner",
    "ObjectiveSchedule",
    "OuterLoop",
    "ProtoNet",
    "UnicornMAML",
    "can_be_tested",
    "check_adaptation",
    "check_checkpoint",
    "check_network",
    "check_trainer_settings",
    "ci95",
    "make_trainer",
    "read_checkpoint",
]
