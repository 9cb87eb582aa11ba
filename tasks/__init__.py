"""The built-in tasks: importing this module is registering them."""

from .masked_lm import MaskedLM, MaskedLMData

__all__ = ["MaskedLM", "MaskedLMData"]
