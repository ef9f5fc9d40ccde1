"""Text to image: the condition images of the video model, and text to 3D (the paper's EMU; sections 3.2 and 4.2).

A folder or a hub name: whatever `AutoPipelineForText2Image` of diffusers loads. `stand-in`: no learned weights, the
procedural world renders the prompt, which has to be a caption of `vfusion3d.world.captions`.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vfusion3d.cameras import HIGHEST_ELEVATION, default_intrinsics, orbit_cameras
from vfusion3d.data.images import on_white, resize
from vfusion3d.foundations.loading import load_once, pretrained, role
from vfusion3d.runs.profiles import Profile
from vfusion3d.world.captions import make_object
from vfusion3d.world.catalogue import ObjectSpec

TextToImage = Callable[[Sequence[str], torch.Generator, int], Float[Tensor, "B 3 size size"]]


@role("text_to_image")
def text_to_image(profile: Profile) -> TextToImage:
    """The profile's text-to-image model: a function (prompts, generator, size) to images in [0, 1], one a prompt.

    A pipeline draws at the size that it was trained for, all prompts at once, and the result is resized to `size`
    pixels a side; the images come back in float32 on the CPU. The background is what the prompt asks for; the
    stand-in's is white. The generator is the only randomness. Raises ModelUnavailable where a pretrained model cannot
    be had.
    """
    if profile.foundations.text_to_image == "stand-in":
        return rendered_prompts
    pipeline = load_once(profile, "text_to_image", load_pipeline)

    @torch.no_grad()
    def draw(prompts: Sequence[str], generator: torch.Generator, size: int) -> Float[Tensor, "B 3 size size"]:
        images = pipeline(prompt=list(prompts), generator=generator, output_type="pt").images
        return resize(images.float().cpu(), size).clamp(0, 1)

    return draw


def load_pipeline(source: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
    """The diffusers pipeline at `source`, quiet, on the device."""
    from diffusers import AutoPipelineForText2Image

    pipeline = pretrained(AutoPipelineForText2Image, source, dtype=dtype, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def rendered_prompts(prompts: Sequence[str], generator: torch.Generator, size: int) -> Float[Tensor, "B 3 size size"]:
    """A picture of an object that fits each prompt, from azimuth 0 and an elevation in [0, pi/4], on white.

    Raises CaptionError for a prompt that the caption grammar cannot read.
    """
    from vfusion3d.data.render import render_views
    from vfusion3d.world.objects import build_mesh

    images = []
    for prompt in prompts:
        spec, elevation = imagined(prompt, generator)
        views = render_views(build_mesh(spec), orbit_cameras(1, elevation), default_intrinsics(1), size)
        images.append(on_white(torch.from_numpy(views.rgba).movedim(-1, 1))[0])
    return torch.stack(images) if images else torch.zeros(0, 3, size, size)


def imagined(prompt: str, generator: torch.Generator) -> tuple[ObjectSpec, float]:
    """The object that the stand-in draws for a prompt, and the elevation in radians from which it is seen.

    Takes two numbers from the generator. Raises CaptionError for a prompt that the caption grammar cannot read.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    elevation = float(HIGHEST_ELEVATION * torch.rand((), generator=generator))
    return make_object(prompt, seed), elevation
