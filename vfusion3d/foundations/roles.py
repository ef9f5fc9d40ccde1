"""The roles of a profile in one hand: what judges and what draws, each loaded when it is first asked for."""

from functools import cached_property

import torch

from vfusion3d.foundations import aesthetic_score, clip, perceptual, text_to_image
from vfusion3d.foundations.loading import device_of
from vfusion3d.runs.profiles import Profile


class Roles:
    """What plays the roles at a profile. Raises ModelUnavailable at the first use of one that cannot be had."""

    def __init__(self, profile: Profile):
        self._profile = profile
        self.names = profile.foundations  # of the models

    @cached_property
    def device(self) -> torch.device:
        """Where they run."""
        return device_of(self._profile)

    @cached_property
    def clip(self) -> clip.Clip:
        """Text and image similarity."""
        return clip.clip(self._profile)

    @cached_property
    def perceptual_distance(self) -> perceptual.PerceptualDistance:
        """LPIPS, on `device`."""
        return perceptual.perceptual_distance(self._profile).to(self.device)

    @cached_property
    def text_to_image(self) -> text_to_image.TextToImage:
        """Draws a prompt."""
        return text_to_image.text_to_image(self._profile)

    @cached_property
    def aesthetic_score(self) -> aesthetic_score.AestheticScore:
        """How pleasing views are."""
        return aesthetic_score.aesthetic_score(self._profile)
