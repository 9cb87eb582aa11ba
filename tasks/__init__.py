"""The built-in tasks: importing this module is registering them."""

from .causal_lm import CausalLM, CausalLMData
from .masked_lm import MaskedLM, MaskedLMData
from .next_sentence import NextSentence, NextSentenceData
from .permutation_lm import PermutationLM, PermutationLMData
from .replaced_token import ReplacedTokenData, ReplacedTokenDetection
from .sentence_order import SentenceOrder, SentenceOrderData

__all__ = [
    "CausalLM",
    "CausalLMData",
    "MaskedLM",
    "MaskedLMData",
    "NextSentence",
    "NextSentenceData",
    "PermutationLM",
    "PermutationLMData",
    "ReplacedTokenData",
    "ReplacedTokenDetection",
    "SentenceOrder",
    "SentenceOrderData",
]
