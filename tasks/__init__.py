"""The built-in tasks: importing this module is registering them."""

from .masked_lm import MaskedLM, MaskedLMData
from .next_sentence import NextSentence, NextSentenceData
from .sentence_order import SentenceOrder, SentenceOrderData

__all__ = [
    "MaskedLM",
    "MaskedLMData",
    "NextSentence",
    "NextSentenceData",
    "SentenceOrder",
    "SentenceOrderData",
]
