"""GrabCut without a hand that draws a box: OpenCV's segmentation, started from a guess of what stands out."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from skimage.graph import MCP_Geometric

GRABCUT_SIDE, SALIENCY_SIDE = 384, 128  # pixels of the longer side
LEAST_SIDE = 8  # of a very long picture


def grabcut_mask(rgb: UInt8[ndarray, "height width 3"]) -> Bool[ndarray, "height width"]:
    """The object of a photo, from four certainties of what stands out; nothing where nothing does."""
    stands_out = _saliency(_resize(rgb, SALIENCY_SIDE))
    level = np.clip(255 * stands_out, 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(level, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    small = _resize(rgb, GRABCUT_SIDE)
    level = cv2.resize(level.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    guess = np.full(level.shape, cv2.GC_BGD, np.uint8)
    guess[level > 0.15 * threshold] = cv2.GC_PR_BGD
    guess[level > 0.7 * threshold] = cv2.GC_PR_FGD
    guess[level > 1.9 * threshold] = cv2.GC_FGD
    if not (guess & 1).any() or (guess & 1).all():
        return np.zeros(rgb.shape[:2], bool)
    cv2.setRNGSeed(0)  # GrabCut's clustering draws from OpenCV's generator: the same picture gets the same cut
    guess, _, _ = cv2.grabCut(small, guess, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    mask = without_specks((guess & 1).astype(bool), share_of_largest=0.05)
    mask = ~without_specks(~mask, share_of_picture=0.0005)
    return cv2.resize(mask.astype(np.float32), rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5


def _saliency(rgb: ndarray) -> Float[ndarray, "height width"]:
    """What stands out, about [0, 1]: far from the picture's edge by the cheapest path over colour steps, and unlike a
    smooth background (a quadratic fitted to the rim); a little more so in the middle."""
    lab = cv2.cvtColor(cv2.medianBlur(rgb, 5).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    height, width = lab.shape[:2]
    steps = np.sqrt(sum((np.gradient(lab, axis=axis) ** 2).sum(-1) for axis in (0, 1)))
    edge = np.pad(np.zeros((height - 2, width - 2), bool), 1, constant_values=True)
    enclosed, _ = MCP_Geometric(np.maximum(steps - 1, 0) + 0.01).find_costs(np.argwhere(edge))

    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    rim = np.ones((height, width), bool)
    thick = max(2, min(height, width) // 20)
    rim[thick:-thick, thick:-thick] = False
    background = rim
    for _ in range(3):  # refitted without what of the object touches the rim
        fit, *_ = np.linalg.lstsq(basis[background], lab[background], rcond=None)
        unlike = np.linalg.norm(lab - basis @ fit, axis=-1)
        background = rim & (unlike < 2 * np.median(unlike[rim]) + 2)
    trust = 1 / (1 + np.sqrt((unlike[rim] ** 2).mean()) / 10)  # little, where the rim is not smooth

    if max(np.percentile(enclosed, 98), np.percentile(unlike, 98)) < 3:  # CIE Lab: hardly visible
        return np.zeros((height, width))
    middle = np.exp(-(x**2 + y**2) / (2 * 0.6**2))
    both = _to_unit(enclosed) + trust * _to_unit(unlike)
    both = both * (0.5 + 0.5 * middle)
    return np.clip(both / max(np.percentile(both, 99), 1e-6), 0, 1)


def _to_unit(values: ndarray) -> ndarray:
    return np.clip(values / max(np.percentile(values, 98), 1e-6), 0, 1)


def without_specks(
    mask: Bool[ndarray, "height width"], share_of_largest: float = 0.0, share_of_picture: float = 0.0
) -> Bool[ndarray, "height width"]:
    """The mask without the parts that are smaller than a share of its largest, or of the picture."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    if len(areas) == 0:
        return mask
    large = 1 + np.flatnonzero(areas >= max(share_of_largest * areas.max(), share_of_picture * mask.size))
    return np.isin(labels, large)


def _resize(rgb: ndarray, longest: int) -> ndarray:
    scale = min(1.0, longest / max(rgb.shape[:2]))
    size = [max(LEAST_SIDE, round(side * scale)) for side in rgb.shape[1::-1]]
    return cv2.resize(np.ascontiguousarray(rgb), size, interpolation=cv2.INTER_AREA)
