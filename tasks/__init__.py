"""The built-in tasks: importing this module is registering them."""

from .causal_lm import CausalLM, CausalLMData
from .masked_lm import MaskedLM, MaskedLMData
from .replaced_token import ReplacedTokenData, ReplacedTokenDetection

__all__ = [
    "CausalLM",
    "CausalLMData",
    "MaskedLM",
    "MaskedLMData",
    "ReplacedTokenData",
    "ReplacedTokenDetection",
]
