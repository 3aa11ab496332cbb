"""Methods: what is learned and adapted (learners), and what is asked for (objectives)."""

from lightning_maml.algorithms.anil import ANIL
from lightning_maml.algorithms.boil import BOIL
from lightning_maml.algorithms.feature_learner import FeatureLearner
from lightning_maml.algorithms.maml import MAML, NetworkLearner
from lightning_maml.algorithms.maml_pp import MAMLPlusPlus
from lightning_maml.algorithms.meta_sgd import MetaSGD
from lightning_maml.algorithms.objectives import (
    DomainGeneralizationLoss,
    FinalLoss,
    InnerLossOnly,
    MultiStepLoss,
    ObjectiveSchedule,
)
from lightning_maml.algorithms.protonet import ProtoNet
from lightning_maml.algorithms.r2d2 import R2D2
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
    "ProtoNet",
    "UnicornMAML",
]
