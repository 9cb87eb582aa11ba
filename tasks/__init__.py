"""The built-in tasks: importing this module is registering them."""

from .denoising import Denoising, DenoisingData
from .masked_lm import MaskedLM, MaskedLMData
from .span_corruption import SpanCorruption, SpanCorruptionData

__all__ = ["Denoising", "DenoisingData", "MaskedLM", "MaskedLMData", "SpanCorruption", "SpanCorruptionData"]
