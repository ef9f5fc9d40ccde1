"""VFusion3D: one image to a triplane, with the architecture and the tensor names of the released weights.

    image -> DINOv2 tokens -> (cross-attention, self-attention, MLP) x layers on triplane tokens -> three feature planes

Module names follow the released checkpoint on purpose (`encoder.model`, `transformer.layers.N.cross_attn`,
`synthesizer.decoder.net`), so that its tensors load by name. How a triplane becomes a picture is in `rendering.py`,
how it becomes a mesh in `mesh.py`.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float, UInt8
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vfusion3d.foundations.dinov2 import Dinov2
from vfusion3d.foundations.loading import BUNDLED, hub_folder
from vfusion3d.learning.attention import attend
from vfusion3d.model.check import CONFIG, WEIGHTS, check_folder, not_a_folder
from vfusion3d.model.mesh import colours_at, extract_mesh, outline_threshold
from vfusion3d.model.rendering import Field, Rendering, render
from vfusion3d.model.sizes import Config

RELEASED_NAME = "facebook/vfusion3d"


class VFusion3D(nn.Module):
    """One image to a 3D field (sections 3.1 and 3.3). sizes: fields of `Config`."""

    def __init__(self, **sizes):
        super().__init__()
        self.config = config = Config(**sizes)
        self.encoder = ImageEncoder(
            config.encoder_width, config.encoder_layers, config.encoder_heads, config.patch_size, config.position_grid
        )
        self.camera_embedder = CameraEmbedder(config.camera_width)
        self.transformer = TriplaneTransformer(
            config.width,
            config.layers,
            config.heads,
            config.encoder_width,
            config.camera_width,
            config.triplane_size,
            config.triplane_channels,
            config.radius,
        )
        self.synthesizer = Synthesizer(config.triplane_channels)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"], camera: Float[Tensor, "batch 16"]
    ) -> Float[Tensor, "batch 3 channels resolution resolution"]:
        """Predict the triplane. image: in [0, 1], white background. camera: `cameras.camera_vector` of its view."""
        return self.transformer(self.encoder(image), self.camera_embedder(camera))

    @property
    def field(self) -> Field:
        return self.synthesizer.decoder

    def render(
        self,
        planes: Float[Tensor, "batch 3 channels resolution resolution"],
        cam2world: Float[Tensor, "batch views 3 4"],
        intrinsics: Float[Tensor, "batch views 4"],
        size: int,
        **options,
    ) -> Rendering:
        """Volume-render square views of `size` pixels: see `rendering.render` for the options and what comes back."""
        options.setdefault("samples", self.config.samples_per_ray)
        options.setdefault("radius", self.config.radius)
        return render(self.field, planes, cam2world, intrinsics, size, **options)

    def query(
        self, planes: Float[Tensor, "batch 3 channels resolution resolution"], points: Float[Tensor, "batch points 3"]
    ) -> tuple[Float[Tensor, "batch points 3"], Float[Tensor, "batch points 1"]]:
        """Colour in about [0, 1] and density (per world unit, 0 or more) at world points of the cube [-1, 1]^3."""
        rgb, raw = self.field(planes, points)
        density = nn.functional.softplus(raw - 1)
        if self.config.radius is not None:
            density = density * (points.norm(dim=-1, keepdim=True) <= self.config.radius)
        return rgb, density

    def extract_mesh(
        self,
        planes: Float[Tensor, "1 3 channels resolution resolution"],
        resolution: int = 256,
        threshold: float = 1.0,
        coloured: bool = True,
    ) -> trimesh.Trimesh:
        """The closed surface where the density crosses `threshold`, with vertex colours: see `mesh.extract_mesh`."""
        return extract_mesh(self.field, planes, resolution, threshold, self.config.radius, True, coloured)

    def outline_threshold(
        self,
        planes: Float[Tensor, "1 3 channels resolution resolution"],
        cam2world: Float[Tensor, "views 3 4"],
    ) -> float:
        """The threshold at which the mesh has the outline of the renders: see `mesh.outline_threshold`."""
        return outline_threshold(self.field, planes, cam2world, self.config.radius)

    def colours_at(
        self, planes: Float[Tensor, "1 3 channels resolution resolution"], points: Float[np.ndarray, "points 3"]
    ) -> UInt8[np.ndarray, "points 3"]:
        """The field's colours at world points, sRGB."""
        return colours_at(self.field, planes, points)

    @property
    def device(self) -> torch.device:
        return self.transformer.pos_embed.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.pos_embed.dtype

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def enable_gradient_checkpointing(self) -> None:
        """Keep nothing of a layer for the gradient but its input, and compute the layer again."""
        self.encoder.model.gradient_checkpointing = self.transformer.gradient_checkpointing = True

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the config and the weights into a folder, which `from_pretrained` reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(asdict(self.config), indent=2) + "\n", encoding="utf-8")
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike, torch_dtype: torch.dtype = torch.float32, **changed: Any
    ) -> "VFusion3D":
        """Load `mini` or `base` (bundled), the released weights (`facebook/vfusion3d`), or any folder or hub name.

        Of the hub, NAME@REVISION is that branch, tag or commit. changed: fields of `Config` to have in place of the
        folder's, such as `samples_per_ray`; for the released weights, options of `from_released`.
        Raises CheckpointError, before anything is allocated, for a folder whose config or tensors make no such model;
        TypeError for a field that there is not.
        """
        if str(name).partition("@")[0] == RELEASED_NAME:
            return cls.from_released(name, **changed).to(torch_dtype)
        bundled = {path.name: path for path in BUNDLED.iterdir() if path.is_dir()}
        source = Path(os.path.expanduser(bundled.get(str(name), name)))
        if not source.is_dir():
            if reason := not_a_folder(str(name).partition("@")[0]):
                raise FileNotFoundError(f"{name}: {reason}")
            source = hub_folder(str(name), (CONFIG, WEIGHTS))
        model, tensors = check_folder(cls, source, **changed)
        model.load_state_dict({key: value.to(torch_dtype) for key, value in tensors.items()}, assign=True)
        return model.eval()

    @classmethod
    def from_released(
        cls, source, *, encoder_heads: int = 12, transformer_heads: int = 16, samples_per_ray: int = 128
    ) -> "VFusion3D":
        """Load weights published by the authors: see `released.load_released`."""
        from vfusion3d.model.released import load_released

        return load_released(
            cls,
            source,
            encoder_heads=encoder_heads,
            transformer_heads=transformer_heads,
            samples_per_ray=samples_per_ray,
        )


class ImageEncoder(nn.Module):
    """Image in [0, 1] to DINOv2's last hidden state, class token first (section 3.1)."""

    def __init__(self, width: int, layers: int, heads: int, patch_size: int, position_grid: int):
        super().__init__()
        self.model = Dinov2(width, layers, heads, patch_size, position_grid)
        on_cpu = {"device": "cpu"}  # also where only shapes are asked for, on the meta device
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406], **on_cpu).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225], **on_cpu).view(3, 1, 1), persistent=False)

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens width"]:
        return self.model((image - self.mean) / self.std)


class CameraEmbedder(nn.Module):
    """The 16 numbers of a camera to one vector, which modulates every layer of the transformer."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, camera: Float[Tensor, "batch 16"]) -> Float[Tensor, "batch width"]:
        return self.mlp(camera)


class TriplaneTransformer(nn.Module):
    """Learned triplane tokens look at the image tokens and at each other, then become planes (section 3.1).

    With a radius only the tokens whose texels are read within it are computed: 62% of 16x16 for 0.8.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        image_width: int,
        camera_width: int,
        size: int,
        channels: int,
        radius: float | None = None,
    ):
        super().__init__()
        self.size = size
        read = None if radius is None else tokens_within(size, radius).repeat(3).nonzero().flatten()
        self.register_buffer("read", read, persistent=False)
        self.gradient_checkpointing = False
        self.pos_embed = nn.Parameter(torch.empty(1, 3 * size * size, width))
        nn.init.trunc_normal_(self.pos_embed, std=width**-0.5)  # normal_ imports sympy where only shapes are asked for
        self.layers = nn.ModuleList(TransformerLayer(width, heads, image_width, camera_width) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.deconv = nn.ConvTranspose2d(width, channels, kernel_size=2, stride=2)

    def forward(
        self, image_tokens: Float[Tensor, "batch tokens image_width"], camera: Float[Tensor, "batch camera_width"]
    ) -> Float[Tensor, "batch 3 channels resolution resolution"]:
        x = self.start(len(image_tokens))
        for layer in self.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, image_tokens, camera, use_reentrant=False)
            else:
                x = layer(x, image_tokens, camera)
        return self.planes(x)

    def start(self, batch: int) -> Float[Tensor, "batch read width"]:
        """The learned tokens, before they have seen any image: planes, then rows, then columns."""
        tokens = self.pos_embed if self.read is None else self.pos_embed[:, self.read]
        return tokens.expand(batch, -1, -1)

    def planes(self, x: Float[Tensor, "batch read width"]) -> Float[Tensor, "batch 3 channels resolution resolution"]:
        """What the last layer leaves of the tokens, as planes."""
        x = self.on_planes(self.norm(x))
        planes = self.deconv(x.flatten(0, 1).permute(0, 3, 1, 2))  # (batch * 3, channels, 2 size, 2 size)
        return planes.unflatten(0, (-1, 3))

    def on_planes(self, x: Float[Tensor, "batch read numbers"]) -> Float[Tensor, "batch 3 size size numbers"]:
        """Numbers of each token where it lies on the planes; 0 where no token is computed."""
        if self.read is not None:
            x = x.new_zeros(len(x), 3 * self.size**2, x.shape[-1]).index_copy(1, self.read, x)
        return x.unflatten(1, (3, self.size, self.size))


def tokens_within(size: int, radius: float) -> Bool[Tensor, "size*size"]:
    """Which tokens of a plane over [-1, 1]^2, row by row, a point within `radius` of the origin can read.

    Each covers two texels a side, and interpolation reads half a texel further.
    """
    side = 2 / size
    places = torch.arange(size, device="cpu")  # also where only shapes are asked for, on the meta device
    nearest = ((places + 0.5) * side - 1).abs() - side / 2 - side / 4
    nearest = nearest.clamp(min=0).square()
    return (nearest[:, None] + nearest < radius**2).flatten()


class TransformerLayer(nn.Module):
    """Cross-attention to the image, self-attention, MLP, each behind a camera-modulated LayerNorm."""

    def __init__(self, width: int, heads: int, image_width: int, camera_width: int):
        super().__init__()
        self.norm1 = ModulatedLayerNorm(width, camera_width)
        self.cross_attn = Attention(width, heads, bias=False, kdim=image_width, vdim=image_width, batch_first=True)
        self.norm2 = ModulatedLayerNorm(width, camera_width)
        self.self_attn = Attention(width, heads, bias=False, batch_first=True)
        self.norm3 = ModulatedLayerNorm(width, camera_width)
        # Identity stands where the authors' layer has a dropout, so that the Linears keep the released names 0 and 3.
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, image_tokens: Tensor, camera: Tensor) -> Tensor:
        x = x + self.cross_attn(self.norm1(x, camera), image_tokens)
        y = self.norm2(x, camera)
        x = x + self.self_attn(y, y)
        return x + self.mlp(self.norm3(x, camera))


class Attention(nn.MultiheadAttention):
    """The weights of `nn.MultiheadAttention` without biases, used as the device does it fastest."""

    def forward(
        self, x: Float[Tensor, "batch queries width"], seen: Float[Tensor, "batch keys seen_width"]
    ) -> Float[Tensor, "batch queries width"]:
        return self.out_proj(attend(*self.heads(x, seen)).transpose(1, 2).flatten(2))

    def heads(self, x: Tensor, seen: Tensor) -> tuple[Tensor, ...]:
        """Queries of x, keys and values of what is seen, (batch, heads, tokens, head_dim) each."""
        if self.in_proj_weight is None:
            weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        else:
            weights = self.in_proj_weight.chunk(3)
        return tuple(
            nn.functional.linear(one, weight).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for one, weight in zip((x, seen, seen), weights, strict=True)
        )

    def shares(
        self, x: Float[Tensor, "batch queries width"], seen: Float[Tensor, "batch keys seen_width"]
    ) -> Float[Tensor, "batch heads queries keys"]:
        """softmax(q k^T / sqrt(head_dim)): how each query's attention is divided among what is seen. To look at."""
        q, k, _ = self.heads(x, seen)
        return (q @ k.mT * self.head_dim**-0.5).softmax(dim=-1)


class ModulatedLayerNorm(nn.Module):
    """LayerNorm(x) * (1 + scale) + shift, with shift and scale read off the camera embedding."""

    def __init__(self, width: int, camera_width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(camera_width, 2 * width))

    def forward(self, x: Float[Tensor, "batch tokens width"], camera: Float[Tensor, "batch camera_width"]) -> Tensor:
        shift, scale = self.mlp(camera)[:, None].chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


class Synthesizer(nn.Module):
    """Holds the field decoder under its released name."""

    def __init__(self, channels: int):
        super().__init__()
        self.decoder = Field(channels)
