"""The built-in tasks: importing this module is registering them."""

from .causal_lm import CausalLM, CausalLMData
from .masked_lm import MaskedLM, MaskedLMData

__all__ = ["CausalLM", "CausalLMData", "MaskedLM", "MaskedLMData"]
