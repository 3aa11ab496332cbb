"""What a sweep of several jobs has found: each job's outcome, a table and a picture of all."""

from lightning_maml.reports.sweeps.jobs import Outcome
from lightning_maml.reports.sweeps.summary import SweepSummary

__all__ = ["Outcome", "SweepSummary"]
