"""The built-in tasks: importing this module is registering them."""

from .masked_lm import MaskedLM, MaskedLMData
from .replaced_token import ReplacedTokenData, ReplacedTokenDetection

__all__ = ["MaskedLM", "MaskedLMData", "ReplacedTokenData", "ReplacedTokenDetection"]
