"""The built-in tasks: importing this module is registering them."""

from .causal_lm import CausalLM, CausalLMData
from .masked_lm import MaskedLM, MaskedLMData
from .permutation_lm import PermutationLM, PermutationLMData

__all__ = ["CausalLM", "CausalLMData", "MaskedLM", "MaskedLMData", "PermutationLM", "PermutationLMData"]
