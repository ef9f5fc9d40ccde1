"""How fast are the paper's sizes on one GPU? And does the GPU compute what the CPU does?

    vfusion3d render --profile laptop --objects procedural --count 4 --views 8 --size 512 -o runs/gpu/shards
    python benchmarks/gpu.py runs/gpu/shards

Models of the released and of the paper's size, with random weights, which cost as much as trained ones. As random
weights leave no space empty, views and meshes are of a field of the released sizes whose density is a ball, as in
`benchmarks/inference.py`. Every figure is the median of some runs after two that do not count. The last lines compare
`mini` and the video miniature on both devices; a relative difference above 0.01 is an error.
"""

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lpips
import torch
from diffusers import UNetSpatioTemporalConditionModel
from flops import video_vae

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fields import ball_field

from vfusion3d import ImageTo3DPipeline, VFusion3D
from vfusion3d.cameras import camera_vector, default_intrinsics, orbit_cameras
from vfusion3d.data.shards import MultiviewShards
from vfusion3d.foundations.image_to_video import Condition, Noise, StableVideoDiffusion
from vfusion3d.foundations.loading import BUNDLED
from vfusion3d.foundations.perceptual import PerceptualDistance
from vfusion3d.learning.draws import generator_of
from vfusion3d.model.mesh import extract_mesh
from vfusion3d.model.rendering import render
from vfusion3d.runs.profiles import load_profile
from vfusion3d.training.losses import Losses
from vfusion3d.training.supervision import Supervision
from vfusion3d.video.finetune import learn_temporal_only

DEVICE = "cuda"


def show(what: str, work, units: int = 1, repeats: int = 5) -> None:
    """Print the median seconds a unit of `work`, which does `units`, and the peak of the GPU's memory."""
    torch.cuda.reset_peak_memory_stats()
    found = []
    for run in range(2 + repeats):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found += [time.perf_counter() - begun] * (run >= 2)
    peak = torch.cuda.max_memory_allocated() / 2**30
    print(f"{what}: {statistics.median(found) / units:.4g} s, {peak:.1f} GiB", flush=True)


def on_gpu(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The model, moved; diffusers' own `to` warns of some types."""
    return torch.nn.Module.to(model, DEVICE, dtype)


@torch.inference_mode()
def inference() -> None:
    model = VFusion3D().to(DEVICE).eval()
    camera = camera_vector(orbit_cameras(1, 0.0, 1.0), default_intrinsics(1)).to(DEVICE)
    image = torch.rand(1, 3, 512, 512, device=DEVICE)
    show("triplane at the released size, float32", lambda: model(image, camera))
    model.bfloat16()
    show("triplane at the released size, bfloat16", lambda: model(image.bfloat16(), camera.bfloat16()))
    field, planes = ball_field(channels=80, resolution=64, radius=0.6)
    field, planes = field.to(DEVICE), planes.to(DEVICE)
    cameras, intrinsics = orbit_cameras(1, 0.35)[None].to(DEVICE), default_intrinsics(1, 1).to(DEVICE)
    for size in (256, 384):
        show(f"view of {size} pixels", lambda size=size: render(field, planes, cameras, intrinsics, size))
    show("mesh 256^3", lambda: extract_mesh(field, planes, 256), repeats=3)


def training(shards: str) -> None:
    """Forward and backward passes of the paper's last stage, without the optimizer.

    Patches of 128 pixels of 4 views of 384, 128 samples a ray.
    """
    model = VFusion3D().to(DEVICE).train()
    distance = on_gpu(PerceptualDistance(lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)))
    for batch in (1, 2, 4):
        recipe = replace(load_profile("paper").training, batch_size=batch)
        data = Supervision(MultiviewShards(shards), recipe, 512, total_steps=100)
        sample = data.batch(99)
        loss = Losses(recipe, distance)

        def step(sample=sample, loss=loss) -> None:
            with torch.autocast(DEVICE, torch.bfloat16):
                value = loss(model, sample, generator_of(0))["loss"]
            value.backward()
            model.zero_grad()

        try:
            show(f"train VFusion3D at the paper's size, a sample of a batch of {batch}", step, batch, repeats=3)
        except torch.OutOfMemoryError:
            print(f"a batch of {batch} does not fit")


def video() -> None:
    """Forward and backward passes of fine-tuning, and generation, at Stable Video Diffusion's size.

    16 frames of 512 pixels; the optimizer does not count.
    """
    with torch.device(DEVICE):
        unet, vae = UNetSpatioTemporalConditionModel(), video_vae()
    unet, vae = on_gpu(unet), on_gpu(vae, torch.float16).requires_grad_(False)  # torch.device misses a few parameters
    frames = torch.zeros(16, 3, 512, 512, device=DEVICE, dtype=torch.float16)
    show("encode a video of 512 pixels", lambda: vae.encode(frames))
    latents = torch.randn(1, 16, 4, 64, 64, device=DEVICE)
    condition = Condition(torch.randn(1, 1, 1024), torch.randn(1, 4, 64, 64), torch.tensor([[6.0, 127.0, 0.02]]))
    condition = condition.to(DEVICE)
    model = SimpleNamespace(noise=Noise(), network=unet)  # all that these methods need of the class
    model.temporal_parameters = lambda: StableVideoDiffusion.temporal_parameters(model)
    learn_temporal_only(model)
    unet.enable_gradient_checkpointing()

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16):
            StableVideoDiffusion.loss(model, unet, latents, condition, generator_of(0)).backward()
        unet.zero_grad()

    show("fine-tune the video model on a video of 512 pixels", step, repeats=3)
    on_gpu(unet, torch.float16).eval()
    seen, embedding = torch.randn(2, 16, 8, 64, 64), torch.randn(2, 1, 1024)
    inputs = [part.to(DEVICE, torch.float16) for part in (seen, torch.zeros(2), embedding, torch.zeros(2, 3))]
    with torch.inference_mode():
        show("a denoising step with guidance, 512 pixels", lambda: unet(*inputs))


@torch.inference_mode()
def agreement() -> None:
    """`mini` and the video miniature on both devices, in float32."""

    def differ(what: str, ours: torch.Tensor, reference: torch.Tensor) -> None:
        error = ((ours.cpu().float() - reference).norm() / reference.norm()).item()
        print(f"{what}: GPU and CPU differ by {error:.2e}", flush=True)
        if not error < 0.01:
            raise SystemExit(f"{what}: the GPU does not compute what the CPU does")

    torch.manual_seed(0)
    model = VFusion3D.from_pretrained("mini").eval()
    image = torch.rand(2, 3, 64, 64)
    camera = camera_vector(orbit_cameras(2, 0.3), default_intrinsics(2))
    cameras, intrinsics = orbit_cameras(3, 0.2)[None].expand(2, -1, -1, -1), default_intrinsics(2, 3)
    planes = model(image, camera)
    view = model.render(planes, cameras, intrinsics, 96).rgb
    mesh = model.extract_mesh(planes[:1])
    model.to(DEVICE)
    again = model(image.to(DEVICE), camera.to(DEVICE))
    differ("triplane", again, planes)
    differ("views", model.render(again, cameras.to(DEVICE), intrinsics.to(DEVICE), 96).rgb, view)
    surface = model.extract_mesh(again[:1])
    differ("area of the mesh", torch.tensor(float(surface.area)), torch.tensor(float(mesh.area)))
    videos: dict[str, torch.Tensor] = {}
    made: dict[str, torch.Tensor] = {}
    for device in ("cpu", DEVICE):
        pipeline = StableVideoDiffusion.from_pretrained(BUNDLED / "image_to_video", device)
        videos[device] = pipeline.encode(image[:, None])
        made[device] = pipeline.generate(image, [torch.Generator().manual_seed(i) for i in range(2)], steps=4)
    differ("latents", videos[DEVICE], videos["cpu"])
    differ("videos", made[DEVICE], made["cpu"])
    asset = ImageTo3DPipeline.from_pretrained("mini", DEVICE, elevation_estimator=None)(torch.rand(3, 64, 64))
    print(f"image to 3D on the GPU: a mesh of {len(asset.mesh().vertices):,} vertices", flush=True)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python benchmarks/gpu.py SHARDS (a folder that `vfusion3d render --size 512` wrote)")
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA GPU; benchmarks/inference.py measures a CPU")
    print(torch.cuda.get_device_name())
    for measure in (agreement, inference, lambda: training(sys.argv[1]), video):
        measure()


if __name__ == "__main__":
    main()
