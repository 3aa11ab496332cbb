"""What people look at: progress, pictures, tables, logs and sweeps."""

from lightning_maml.reports.announcements import announce
from lightning_maml.reports.examples import Examples
from lightning_maml.reports.loggers import logged, wandb_logger
from lightning_maml.reports.metrics_csv import MetricsCSV
from lightning_maml.reports.pictures import Adaptation, Curves
from lightning_maml.reports.progress import Progress
from lightning_maml.reports.results import Results
from lightning_maml.reports.sweeps import SweepSummary

__all__ = [
    "Adaptation",
    "Curves",
    "Examples",
    "MetricsCSV",
    "Progress",
    "Results",
    "SweepSummary",
    "announce",
    "logged",
    "wandb_logger",
]
