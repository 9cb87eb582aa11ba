"""The built-in callbacks: importing this module is registering them."""

from .checkpoints import Checkpoints
from .finite import FiniteLoss
from .record import CSVRecord
from .stop import GracefulStop

__all__ = ["CSVRecord", "Checkpoints", "FiniteLoss", "GracefulStop"]
