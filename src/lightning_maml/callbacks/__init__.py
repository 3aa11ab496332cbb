"""What people look at: progress, curves, results; and where metrics are logged."""

from lightning_maml.callbacks.announcements import announce, conclude
from lightning_maml.callbacks.checkpoints import Checkpoint, WholeFiles
from lightning_maml.callbacks.examples import Examples
from lightning_maml.callbacks.interruption import Interruption
from lightning_maml.callbacks.loggers import WandB, begin_logging, end_logging
from lightning_maml.callbacks.metrics_csv import MetricsCSV
from lightning_maml.callbacks.pictures import Adaptation, Curves
from lightning_maml.callbacks.progress import Progress
from lightning_maml.callbacks.results import Results
from lightning_maml.callbacks.resumption import Resumption
from lightning_maml.callbacks.sweep_summary import SweepSummary

__all__ = [
    "Adaptation",
    "Checkpoint",
    "Curves",
    "Examples",
    "Interruption",
    "MetricsCSV",
    "Progress",
    "Results",
    "Resumption",
    "SweepSummary",
    "WandB",
    "WholeFiles",
    "announce",
    "begin_logging",
    "conclude",
    "end_logging",
]
