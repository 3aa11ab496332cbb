"""A trained checkpoint at work: a few labelled images in, a classifier out. Needs neither Hydra's command line nor data
of torchmeta's.

    learner = FewShotLearner.load("checkpoints/best.ckpt")
    classifier = learner.adapt(["cat1.png", "dog1.png"], ["cat", "dog"])
    classifier.classify(["unknown.png"])[0].label
"""

from lightning_maml.few_shot.classifier import Classifier, Prediction
from lightning_maml.few_shot.learner import FewShotLearner
from lightning_maml.few_shot.preprocessing import ImageLike, Preprocessing
from lightning_maml.few_shot.recipe import Recipe

__all__ = ["Classifier", "FewShotLearner", "ImageLike", "Prediction", "Preprocessing", "Recipe"]
