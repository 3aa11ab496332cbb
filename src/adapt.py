"""Adapt a trained checkpoint to a folder of images, and classify others: python src/adapt.py ckpt=… support=… query=…

Writes predictions.csv, predictions.png and classifier.pt.
"""

import logging
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightning_maml.errors import SettingError, printable
from lightning_maml.shell import command_line

log = logging.getLogger(__name__)


def _folder(output: object) -> str:
    """Return `output`, if it is a folder's name: Hydra makes the folder, whatever it is called.

    Raises:
        SettingError: if it is not.
    """
    if not isinstance(output, str) or not output:
        raise SettingError("output", output, "give a folder")
    return output


OmegaConf.register_new_resolver("folder", _folder, replace=True)


@hydra.main(version_base="1.3", config_path="../conf", config_name="adapt")
@command_line.errors_in_one_line
def main(cfg: DictConfig) -> None:
    """Read the images, adapt, classify, and write what was found."""
    from pathlib import Path  # with what follows, because torch takes seconds and --help should not

    from lightning_maml.data import accessible
    from lightning_maml.few_shot import FewShotLearner
    from lightning_maml.few_shot.folders import images_of, read_query, read_support
    from lightning_maml.few_shot.predictions import as_table, draw_predictions, write_predictions
    from lightning_maml.few_shot.request import Request
    from lightning_maml.files import all_or_none
    from lightning_maml.reports.announcements import shown

    settings: Any = OmegaConf.to_container(cfg)
    asked = Request.of(settings)
    folder = Path(HydraConfig.get().runtime.output_dir)
    images, labels = read_support(asked.support)
    queries, truth = read_query(asked.queries, labels)
    learner = FewShotLearner.load(asked.ckpt, trusted=asked.trusted, device=asked.device)
    if learner.recipe.of_texts:
        raise SettingError(
            "ckpt", asked.ckpt, "it was trained on texts; in Python, FewShotLearner.load(…).adapt takes them"
        )
    with images_of("support"):
        classifier = learner.adapt(
            images, labels, steps=asked.steps, transductive=asked.transductive, invert=asked.invert
        )
    trained = printable(learner.recipe.data)
    log.info("trained on %s, adapted to %s images of %s classes", trained, len(images), len(set(labels)))
    written = ["predictions.csv", "predictions.png"]
    with images_of("query"), accessible("output"), all_or_none(folder) as aside:
        predictions = classifier.classify(queries)
        if not classifier.transductive:
            classifier.save(aside / "classifier.pt")
            written.append("classifier.pt")
        if asked.onnx:
            difference = classifier.export_onnx(aside / "classifier.onnx")
            written.append(f"classifier.onnx (its probabilities are PyTorch's within {difference:.0e})")
        write_predictions(queries, predictions, truth, classifier.classes, aside / "predictions.csv")
        draw_predictions(queries, predictions, truth, aside / "predictions.png")
    log.info("\n%s", as_table(predictions, truth, classifier.classes))
    log.info("in %s: %s", shown(str(folder)), ", ".join(written))


if __name__ == "__main__":
    command_line.launch(main, paths=("ckpt", "support", "query", "output"))
