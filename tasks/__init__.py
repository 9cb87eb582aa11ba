"""The built-in tasks: importing this module is registering them."""

from .masked_lm import MaskedLM, MaskedLMData
from .span_corruption import SpanCorruption, SpanCorruptionData

__all__ = ["MaskedLM", "MaskedLMData", "SpanCorruption", "SpanCorruptionData"]
