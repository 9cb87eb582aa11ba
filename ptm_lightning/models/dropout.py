"""Dropout as a function of where in the run a micro-batch stands."""

import torch

from ptm_lightning.data.noise import Purpose, hash64


def seed_dropout(seed: int, step: int, micro_batch: int, device: torch.device) -> None:
    """Seeds torch's generators for one micro-batch, whatever was drawn from them before.

    Args:
        seed: The run's.
        step: Optimizer steps done.
        micro_batch: Its number in the step, over all processes.
        device: Where the network is.
    """
    number = int(hash64(seed, step, micro_batch, Purpose.DROPOUT)[0] >> 1)
    torch.default_generator.manual_seed(number)  # 1 microsecond; torch.manual_seed takes a hundred times that
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
