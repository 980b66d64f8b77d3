"""The Fréchet distance between two sets of features (Heusel et al. 2017, arXiv 1706.08500)."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(made: Tensor, real: Tensor, scaled: bool = True) -> float:
    """Return ‖μ₁ - μ₂‖² + Tr(Σ₁ + Σ₂ - 2(Σ₁Σ₂)^½) of two sets (N, F) of features. If `scaled`, each feature is in units
    of its deviation over `real`. It depends on N: compare distances over equally many images only."""
    made, real = made.double(), real.double()
    if scaled:
        scale = real.std(0).clamp(min=1e-6)
        made, real = made / scale, real / scale
    between = (made.mean(0) - real.mean(0)).square().sum()
    one, two = _root(made), _root(real)
    # Tr((Σ₁Σ₂)^½) is the sum of the singular values of R₁R₂ᵀ, with Σ = RᵀR.
    shared = torch.linalg.svdvals(one @ two.T).sum()
    return (between + one.square().sum() + two.square().sum() - 2 * shared).clamp(min=0).item()


def _root(features: Tensor) -> Tensor:
    """Return R (at most F, F) with RᵀR the covariance of the features."""
    return torch.linalg.qr(features - features.mean(0), mode="r").R / (len(features) - 1) ** 0.5
