"""A classifier as ONNX, for programs without PyTorch."""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lightning_maml.errors import SettingError
from lightning_maml.files import replacing

_TRACED, _COMPARED = 2, 3  # images; other numbers, as the classifier takes any
_TOLERANCE = 1e-4  # of a probability


def export(classifier: nn.Module, input_shape: tuple[int, ...], path: Path) -> float:
    """Write `classifier` to `path`, and return the largest difference of a probability on random inputs.

    Raises:
        SettingError: if ONNX's packages are not installed, or its probabilities differ from PyTorch's.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # PyTorch's exporter needs it
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        raise SettingError("onnx", True, "needs more packages: pip install onnx onnxscript") from error
    for name in ("onnxscript", "onnx_ir"):  # which tell of every node that they remove
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own remarks on the libraries it uses
        program: Any = torch.onnx.export(
            classifier,
            (torch.rand(_TRACED, *input_shape),),
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("images")},),
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    images = torch.rand(_COMPARED, *input_shape)
    found: Any = ReferenceEvaluator(model).run(None, {"images": images.numpy()})
    difference = float(np.abs(found[0] - classifier(images).numpy()).max())
    if not difference < _TOLERANCE:
        raise SettingError(
            "onnx", True, f"its probabilities differ from PyTorch's by {difference:.1e}; nothing was written"
        )
    with replacing(path, "wb") as file:
        onnx.save(model, file)
    return difference
