"""The built-in callbacks: importing this module is registering them."""

from .baseline import Baseline
from .budget import Budget
from .checkpoints import Checkpoints
from .early_stop import EarlyStop
from .export import ExportBest
from .finite import FiniteLoss
from .overview import Overview
from .plots import Plots
from .progress import Progress
from .record import CSVRecord
from .samples import Samples
from .stop import GracefulStop
from .throughput import Throughput
from .validation import RegularValidation
from .wandb import Wandb
from .worst import WorstErrors

__all__ = [
    "Baseline",
    "Budget",
    "CSVRecord",
    "Checkpoints",
    "EarlyStop",
    "ExportBest",
    "FiniteLoss",
    "GracefulStop",
    "Overview",
    "Plots",
    "Progress",
    "RegularValidation",
    "Samples",
    "Throughput",
    "Wandb",
    "WorstErrors",
]
