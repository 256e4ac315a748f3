"""How a VQ-VAE is measured: how many of its codes are used."""

from collections.abc import Mapping
from typing import Any

import torch

from ..data import Dataset
from ..objective import Objective

COMPARED = 2048
"""Held-out images whose codes are counted, at most."""
BATCH = 256
FEW = 8
"""Where perplexity is less than K by so many times, most of the codebook is idle."""


class VQVAEObjective(Objective):
    """``model.losses``; and ``perplexity``, exp of the entropy of the codes' frequencies among held-out images."""

    def measure_set(self, model: Any, held_out: Dataset) -> dict[str, float]:
        some, device = held_out.subset(COMPARED), next(model.parameters()).device
        counts = torch.zeros(model.codes, dtype=torch.float64)
        for values, _ in some.batches(BATCH, device):
            counts += torch.bincount(model.encode(values).flatten(), minlength=model.codes).cpu()
        return {"perplexity": float(torch.special.entr(counts / counts.sum()).sum().exp())}

    def remarks(self, record: Mapping[str, Any]) -> list[str]:
        perplexity, codes = record.get("held_out_perplexity"), self.model.codes
        if perplexity is None:
            return []
        idle = "; most of the codebook is idle: fewer codes would do" if perplexity * FEW < codes else ""
        return [f"codes are used as {perplexity:.3g} equally frequent ones of {codes} would be{idle}"]
