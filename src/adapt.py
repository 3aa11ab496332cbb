"""Adapt a trained checkpoint to a folder of images, and classify others: python src/adapt.py ckpt=… support=… query=…

Writes predictions.csv, predictions.png and classifier.pt.
"""

import logging
from typing import Annotated, Any, Literal

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from lightning_maml.arguments import Natural, require
from lightning_maml.errors import SettingError, printable
from lightning_maml.shell import command_line

log = logging.getLogger(__name__)

Text = Annotated[str, Field(min_length=1)]
_TAKES: dict[str, Any] = {
    "ckpt": Text,
    "support": Text,
    "query": Text | list[Text | int],
    "steps": Natural | None,
    "device": Text,
    "transductive": bool,
    "invert": bool | Literal["auto"],
    "onnx": bool,
    "trusted": list[Text],
}


def check_settings(cfg: DictConfig) -> None:
    """Check the settings of conf/adapt.yaml, before anything is read; raises `SettingError`."""
    for name, hint in _TAKES.items():
        if OmegaConf.is_missing(cfg, name):
            raise SettingError(name, "", "this must be given; conf/adapt.yaml says what it is")
        require(name, cfg[name], hint)
    if cfg.onnx and cfg.transductive:
        raise SettingError("onnx", True, "it needs a classifier of single images; leave transductive out")


def folder(output: object) -> str:
    """Return `output`, if it is a folder's name: Hydra makes the folder, whatever it is called."""
    require("output", output, Text)
    return str(output)


OmegaConf.register_new_resolver("folder", folder, replace=True)


@hydra.main(version_base="1.3", config_path="../conf", config_name="adapt")
@command_line.errors_in_one_line
def main(cfg: DictConfig) -> None:
    """Read the images, adapt, classify, and write what was found."""
    check_settings(cfg)
    from pathlib import Path  # with what follows, because torch takes seconds and --help should not

    from lightning_maml.data import accessible
    from lightning_maml.few_shot import FewShotLearner
    from lightning_maml.few_shot.folders import images_of, read_query, read_support
    from lightning_maml.few_shot.predictions import as_table, draw_predictions, write_predictions
    from lightning_maml.files import all_or_none
    from lightning_maml.reports.announcements import shown

    place = Path(HydraConfig.get().runtime.output_dir)
    images, labels = read_support(cfg.support)
    asked = cfg.query if OmegaConf.is_list(cfg.query) else [cfg.query]
    queries, truth = read_query([str(one) for one in asked], labels)
    learner = FewShotLearner.load(cfg.ckpt, trusted=cfg.trusted, device=cfg.device)
    if learner.recipe.of_texts:
        raise SettingError(
            "ckpt", cfg.ckpt, "it was trained on texts; in Python, FewShotLearner.load(…).adapt takes them"
        )
    with images_of("support"):
        classifier = learner.adapt(images, labels, steps=cfg.steps, transductive=cfg.transductive, invert=cfg.invert)
    trained = printable(learner.recipe.data)
    log.info("trained on %s, adapted to %s images of %s classes", trained, len(images), len(set(labels)))
    written = ["predictions.csv", "predictions.png"]
    with images_of("query"), accessible("output"), all_or_none(place) as aside:
        predictions = classifier.classify(queries)
        if not classifier.transductive:
            classifier.save(aside / "classifier.pt")
            written.append("classifier.pt")
        if cfg.onnx:
            difference = classifier.export_onnx(aside / "classifier.onnx")
            written.append(f"classifier.onnx (its probabilities are PyTorch's within {difference:.0e})")
        write_predictions(queries, predictions, truth, classifier.classes, aside / "predictions.csv")
        draw_predictions(queries, predictions, truth, aside / "predictions.png")
    log.info("\n%s", as_table(predictions, truth, classifier.classes))
    log.info("in %s: %s", shown(str(place)), ", ".join(written))


if __name__ == "__main__":
    command_line.launch(main, paths=("ckpt", "support", "query", "output"))
