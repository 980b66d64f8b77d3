"""Structure: the structural similarity of images, and the error of a part that should be kept."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scedit_cli.conditions.consistency.measure import Figures, Measure

_WINDOW = 7  # pixels, the window of structural similarity
_LARGEST_PSNR = 48.0  # dB, an error of one 8-bit level; smaller errors count as none


def similarity(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the structural similarity in [-1, 1] of uint8 (H, W) or (H, W, 3) images, by scikit-image in 7 x 7 windows
    (Wang, Bovik, Sheikh and Simoncelli, IEEE TIP 2004)."""
    from skimage.metrics import structural_similarity

    window = min(_WINDOW, *(side - 1 + side % 2 for side in wanted.shape[:2]))
    channel_axis = -1 if wanted.ndim == 3 else None
    return float(
        structural_similarity(
            wanted, found, win_size=window, data_range=255, channel_axis=channel_axis, use_sample_covariance=False
        )
    )


def psnr(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of uint8 values in dB, 10·log10(255² / mean squared error) (ITU-T J.247),
    at most 48, where the error is one level. It is 48 for empty arrays."""
    error = np.square(found.astype(np.float32) - wanted).mean() if wanted.size else 0.0
    return float(min(10 * np.log10(255**2 / max(error, 1e-9)), _LARGEST_PSNR))


def _alike(found: Image.Image, wanted: Image.Image) -> Figures:
    found, wanted = (np.asarray(image.convert("RGB")) for image in (found, wanted))
    return {"ssim": similarity(found, wanted), "psnr": psnr(found, wanted)}


def _kept(found: Image.Image, wanted: Image.Image) -> Figures:
    """Compare the part of the image that the condition's mask, its alpha channel, keeps."""
    found, wanted = np.asarray(found.convert("RGB")), np.asarray(wanted.convert("RGBA"))
    kept = wanted[..., 3] > 127
    return {"psnr": psnr(found[kept], wanted[..., :3][kept]), "kept": float(kept.mean())}


LIKENESS = Measure(_alike, lambda figures: max(figures["ssim"], 0.0))
KEPT_PART = Measure(_kept, lambda figures: max(figures["psnr"], 0.0) / _LARGEST_PSNR, annotates=False)
