"""Networks: built or loaded, with logits only where the loss reads them, masks for packed rows, and CPU kernels."""
