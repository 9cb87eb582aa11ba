"""What XLNet's two streams of attention see and predict, from the compact order of a batch.

Shapes: R rows of T places, N targets, P the targets of the row that has most.
"""

import torch
from torch import Tensor


def permutation_mask(order: Tensor) -> Tensor:
    """Who may not see whom: a place sees all that isn't predicted, and what is predicted before it.

    So no target sees itself or later ones, and what isn't predicted sees no target.

    Args:
        order: (R, T) int64, the step at which a place is predicted; 0 for those that aren't.

    Returns:
        (R, T, T) bool, true where the place of the second axis may not see that of the third.
    """
    return (order[:, :, None] <= order[:, None, :]) & (order[:, None, :] > 0)


def target_slots(target_index: Tensor, width: int, most: int) -> Tensor:
    """Where the targets stand among the predictions: the i-th of its row has the row's i-th slot.

    Args:
        target_index: (N,) int64, rising, places of the targets among the R * T.
        width: T.
        most: P.

    Returns:
        (N,) indices into the R * P slots.
    """
    row = target_index // width
    number = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
    return row * most + number


def target_mapping(target_index: Tensor, rows: int, width: int, most: int) -> Tensor:
    """Which place each slot predicts; the slots that a row has too many predict none, and are never read.

    Args:
        target_index: (N,) int64, rising, places of the targets among the R * T.
        rows: R.
        width: T.
        most: P.

    Returns:
        (R, P, T) bool.
    """
    mapping = torch.zeros(rows * most, width, dtype=torch.bool, device=target_index.device)
    mapping[target_slots(target_index, width, most), target_index % width] = True
    return mapping.view(rows, most, width)
