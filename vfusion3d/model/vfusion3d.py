"""VFusion3D: one image to a triplane, with the architecture and the tensor names of the released weights.

    image -> DINOv2 tokens -> (cross-attention, self-attention, MLP) x layers on triplane tokens -> three feature planes

Module names follow the released checkpoint on purpose (`encoder.model`, `transformer.layers.N.cross_attn`,
`synthesizer.decoder.net`), so that its tensors load by name. How a triplane becomes a picture is in `rendering.py`,
how it becomes a mesh in `mesh.py`.
"""

import itertools
import os
from pathlib import Path

import numpy as np
import torch
import trimesh
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from transformers import AttentionInterface, Dinov2Config, Dinov2Model

from vfusion3d.foundations.loading import BUNDLED, pretrained
from vfusion3d.learning.precision import has_bfloat16
from vfusion3d.model.check import check_folder, check_sizes, not_a_folder
from vfusion3d.model.mesh import colours_at, extract_mesh, outline_threshold
from vfusion3d.model.rendering import Field, Rendering, render
from vfusion3d.runs.quiet import keep_quiet

QUERIES = 512  # whose scores are in memory at once
ATTENTION = "vfusion3d"  # the name under which transformers knows `attend`
RELEASED_NAME = "facebook/vfusion3d"


class VFusion3D(ModelMixin, ConfigMixin):
    """One image to a 3D field (sections 3.1 and 3.3).

    image_size: pixels of the square input. patch_size, position_grid, encoder_*: the DINOv2 encoder.
    camera_width: width of the camera embedding. width, layers, heads: the triplane transformer.
    triplane_size: tokens along a plane's side; the planes have twice that resolution, with triplane_channels channels.
    samples_per_ray: half of them coarse, half fine. source_distance, source_elevation (world units, radians): where the
    camera of a plain photograph is assumed to stand, at azimuth 0. radius: of the ball around the origin outside of
    which the field is empty, in world units; None, as released: it fills the cube. Raises ValueError for sizes that
    make no model, or one that this machine cannot hold.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerLayer", "Dinov2Layer"]

    @register_to_config
    def __init__(
        self,
        image_size: int = 512,
        patch_size: int = 14,
        position_grid: int = 37,
        encoder_width: int = 768,
        encoder_layers: int = 12,
        encoder_heads: int = 12,
        camera_width: int = 1024,
        width: int = 1024,
        layers: int = 16,
        heads: int = 16,
        triplane_size: int = 32,
        triplane_channels: int = 80,
        samples_per_ray: int = 128,
        source_distance: float = 1.0,
        source_elevation: float = 0.0,
        radius: float | None = None,
    ):
        super().__init__()
        check_sizes(self.config)
        self.encoder = ImageEncoder(
            Dinov2Config(
                hidden_size=encoder_width,
                num_hidden_layers=encoder_layers,
                num_attention_heads=encoder_heads,
                image_size=position_grid * patch_size,
                patch_size=patch_size,
            )
        )
        self.camera_embedder = CameraEmbedder(camera_width)
        self.transformer = TriplaneTransformer(
            width, layers, heads, encoder_width, camera_width, triplane_size, triplane_channels, radius
        )
        self.synthesizer = Synthesizer(triplane_channels)

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
    ) -> trimesh.Trimesh:
        """The closed surface where the density crosses `threshold`, with vertex colours: see `mesh.extract_mesh`."""
        return extract_mesh(self.field, planes, resolution, threshold, self.config.radius, closed=True)

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

    @classmethod
    def from_pretrained(cls, name: str | Path, **options) -> "VFusion3D":
        """Load `mini` or `base` (bundled), the released weights (`facebook/vfusion3d`), or any folder or hub name.

        Of the hub, NAME@REVISION is that branch, tag or commit. options: those of diffusers, such as `torch_dtype`; the
        released weights take `torch_dtype` alone (ValueError).
        Raises CheckpointError, before anything is allocated, for a folder whose config or tensors make no such model.
        """
        if str(name).partition("@")[0] == RELEASED_NAME:
            dtype = options.pop("torch_dtype", None)
            if options:
                raise ValueError(f"{name} is loaded by from_released, which does not know {', '.join(options)}")
            return cls.from_released(name).to(dtype or torch.float32)
        bundled = {path.name: path for path in BUNDLED.iterdir() if path.is_dir()}
        source = Path(os.path.expanduser(bundled.get(str(name), name)))
        if source.is_dir():
            check_folder(cls, source)
        elif reason := not_a_folder(str(name).partition("@")[0]):
            raise FileNotFoundError(f"{name}: {reason}")
        keep_quiet()
        try:
            return pretrained(super(), source if source.is_dir() else name, use_safetensors=True, **options)
        except OSError as error:  # a page of advice, whose first sentence is the reason
            reason = " ".join(str(error).split())[:300]
            raise OSError(f"{name} is no folder here, and could not be had from the hub: {reason}") from error

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

    def __init__(self, config: Dinov2Config):
        super().__init__()
        self.model = Dinov2Model(config)
        self.model.set_attn_implementation(ATTENTION)
        self.model.embeddings.mask_token.requires_grad_(False)  # DINOv2's own training only; DDP wants all to learn
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens width"]:
        return self.model((image - self.mean) / self.std).last_hidden_state


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
        self.pos_embed = nn.Parameter(torch.randn(1, 3 * size * size, width) * width**-0.5)
        self.layers = nn.ModuleList(TransformerLayer(width, heads, image_width, camera_width) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.deconv = nn.ConvTranspose2d(width, channels, kernel_size=2, stride=2)

    def forward(
        self, image_tokens: Float[Tensor, "batch tokens image_width"], camera: Float[Tensor, "batch camera_width"]
    ) -> Float[Tensor, "batch 3 channels resolution resolution"]:
        x = self.start(len(image_tokens))
        for layer in self.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(layer, x, image_tokens, camera)
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


def attend(
    q: Float[Tensor, "batch heads queries width"],
    k: Float[Tensor, "batch heads keys width"],
    v: Float[Tensor, "batch heads keys width"],
) -> Float[Tensor, "batch heads queries width"]:
    """softmax(q k^T / sqrt(width)) v, by torch's fused attention or by the plain products, whichever is faster.

    In bfloat16 a CPU with instructions for it takes 2.7 times as long for the fused attention as for the products; one
    without takes 20 times as long for the products.
    """
    plain = q.device.type == "cpu" and q.dtype == torch.bfloat16 and has_bfloat16()
    return (plain_attention if plain else nn.functional.scaled_dot_product_attention)(q, k, v)


def _attend_in_encoder(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, *_, **__) -> tuple[Tensor, None]:
    return attend(q, k, v).transpose(1, 2), None


AttentionInterface.register(ATTENTION, _attend_in_encoder)


def plain_attention(
    q: Float[Tensor, "batch heads queries width"],
    k: Float[Tensor, "batch heads keys width"],
    v: Float[Tensor, "batch heads keys width"],
) -> Float[Tensor, "batch heads queries width"]:
    """softmax(q k^T / sqrt(width)) v; without gradients by pieces whose scores stay in the cache."""
    q = q * q.shape[-1] ** -0.5
    if torch.is_grad_enabled():
        return (q @ k.transpose(-1, -2)).softmax(dim=-1) @ v
    result = torch.empty_like(q)
    for places in itertools.product(*map(range, q.shape[:2])):
        for queries, into in zip(q[places].split(QUERIES), result[places].split(QUERIES), strict=True):
            torch.mm((queries @ k[places].T).softmax(dim=-1), v[places], out=into)
    return result


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
