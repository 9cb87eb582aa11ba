"""XLNet's targets and their order: spans of tokens that are predicted one by one, in random order.

From https://arxiv.org/abs/1906.08237, sections 2.2 (factorisation order), 2.3 (partial prediction) and A.1 (spans).

Shapes: n content tokens in flat order, e examples, m contexts.
"""

import numpy as np

from ptm_lightning.data.noise import Bools, Ints, Purpose, Tokens, hash64, uniform


def target_spans(tokens: Tokens, *, longest: int, one_in: int, seed: int) -> Bools:
    """Chooses the targets: in contexts of `one_in` times L tokens, one after the other, a span of L tokens.

    L is uniform in 1 to `longest`, and so is the span's place in its context: the paper names no other distribution
    (its code draws short spans more often, and counts words). The context that the end of an example cuts short holds
    a span of its share of tokens, rounded at random, so that a share of 1 / `one_in` is kept on average. An example
    shorter than a context has at least one target.

    Args:
        tokens: The n tokens, at least one.
        longest: The longest span, in tokens.
        one_in: The paper's K: one in so many tokens is a target; 2 or more.
        seed: The run's seed.

    Returns:
        (n,) whether a token is a target.
    """
    opens = np.flatnonzero(np.diff(tokens.example, prepend=-1))
    sizes = np.diff(opens, append=len(tokens.example))
    first, size = np.repeat(opens, sizes), np.repeat(sizes, sizes)
    # The i-th context of an example takes its numbers from the example's i-th token, which needs no loop over contexts.
    drawn = uniform(seed, tokens.draw, tokens.offset, Purpose.TARGET_LENGTH)
    wanted = 1 + (drawn * longest).astype(np.int64)
    end = np.cumsum(one_in * wanted)
    begin = end - one_in * wanted
    begin -= begin[first]
    context = np.flatnonzero(begin < size)  # (m,)
    begin, wanted, first, size = begin[context], wanted[context], first[context], size[context]
    room = np.minimum(one_in * wanted, size - begin)

    rounding = uniform(seed, tokens.draw[context], tokens.offset[context], Purpose.TARGET_ROUNDING)
    length = np.floor(room / one_in + rounding).astype(np.int64)
    length = np.where(room < one_in * wanted, np.maximum(length, begin == 0), wanted)
    place = uniform(seed, tokens.draw[context], tokens.offset[context], Purpose.TARGET_PLACE)
    start = first + begin + (place * (room - length + 1)).astype(np.int64)
    edges = np.bincount(start, minlength=len(drawn) + 1) - np.bincount(start + length, minlength=len(drawn) + 1)
    return np.asarray(np.cumsum(edges)[:-1] > 0)


def factorisation_order(tokens: Tokens, targets: Bools, seed: int) -> Ints:
    """Draws the order in which the targets of each example are predicted; all other tokens come before them.

    Args:
        tokens: The n tokens.
        targets: (n,) whether a token is a target.
        seed: The run's seed.

    Returns:
        (n,) the step at which a target is predicted, 1, 2, ... anew in each example; 0 for the other tokens.
    """
    at = np.flatnonzero(targets)
    example = tokens.example[at]
    ranked = np.lexsort((hash64(seed, tokens.draw[at], tokens.offset[at], Purpose.FACTORISATION), example))
    order = np.zeros(len(targets), dtype=np.int64)
    order[at[ranked]] = np.arange(len(at)) - np.searchsorted(example, example) + 1
    return order
