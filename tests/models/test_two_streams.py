"""Who sees whom, against loops written from XLNet's paper."""

import numpy as np
import torch

from ptm_lightning.models.two_streams import permutation_mask, target_mapping, target_slots

ORDER = torch.tensor([[0, 2, 0, 1, 3, 0, 0], [0, 0, 1, 0, 0, 0, 0], [0, 1, 3, 2, 4, 0, 0]])


def test_a_place_sees_what_is_not_predicted_and_what_is_predicted_before_it():
    mask = permutation_mask(ORDER)
    for row, steps in enumerate(ORDER.tolist()):
        for i, own in enumerate(steps):
            for j, other in enumerate(steps):
                sees = other == 0 or other < own
                assert bool(mask[row, i, j]) is not sees


def test_each_slot_maps_to_its_target_and_spare_slots_to_none():
    index = torch.nonzero(ORDER.flatten()).squeeze(1)
    mapping, slots = target_mapping(index, 3, 7, 4), target_slots(index, 7, 4)
    expected = np.zeros((3, 4, 7), dtype=bool)
    for row, steps in enumerate(ORDER.tolist()):
        for slot, place in enumerate(place for place, step in enumerate(steps) if step):
            expected[row, slot, place] = True
    np.testing.assert_array_equal(mapping.numpy(), expected)
    assert mapping.flatten(0, 1)[slots].sum() == len(index)
    assert mapping.sum() == len(index)
    found = mapping.flatten(0, 1)[slots].int().argmax(dim=1) + 7 * (slots // 4)
    assert torch.equal(found, index)
