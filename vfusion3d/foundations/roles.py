"""The roles of a profile in one hand: what judges and what draws, each loaded when it is first asked for."""

from functools import cached_property

import torch

from vfusion3d.foundations import (
    aesthetic_score,
    clip,
    image_features,
    perceptual,
    saliency,
    text_to_image,
)
from vfusion3d.foundations.aesthetic_score import AestheticScore
from vfusion3d.foundations.clip import Clip
from vfusion3d.foundations.image_features import ImageFeatures
from vfusion3d.foundations.loading import device_of
from vfusion3d.foundations.perceptual import PerceptualDistance
from vfusion3d.foundations.saliency import Saliency
from vfusion3d.foundations.text_to_image import TextToImage
from vfusion3d.runs.profiles import Profile


class Roles:
    """What plays the roles at a profile. Raises ModelUnavailable at the first use of one that cannot be had."""

    def __init__(self, profile: Profile):
        self.profile = profile

    @cached_property
    def device(self) -> torch.device:
        """Where they run."""
        return device_of(self.profile)

    @cached_property
    def clip(self) -> Clip:
        """Text and image similarity."""
        return clip.clip(self.profile)

    @cached_property
    def perceptual_distance(self) -> PerceptualDistance:
        """LPIPS, on `device`."""
        return perceptual.perceptual_distance(self.profile).to(self.device)

    @cached_property
    def text_to_image(self) -> TextToImage:
        """Draws a prompt."""
        return text_to_image.text_to_image(self.profile)

    @cached_property
    def aesthetic_score(self) -> AestheticScore:
        """How pleasing views are."""
        return aesthetic_score.aesthetic_score(self.profile)

    @cached_property
    def image_features(self) -> ImageFeatures:
        """What the filter reads of a frame."""
        return image_features.image_features(self.profile)

    @cached_property
    def patch_features(self) -> ImageFeatures:
        """What the elevation network reads of a frame."""
        return image_features.patch_features(self.profile)

    @cached_property
    def saliency(self) -> Saliency:
        """Finds the object in a frame."""
        return saliency.saliency(self.profile)
