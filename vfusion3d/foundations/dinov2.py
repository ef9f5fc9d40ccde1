"""DINOv2 (Oquab et al., 2023) in plain PyTorch: the encoder of VFusion3D, and the bundled image features.

transformers' `Dinov2Model` computes the same under the same tensor names, and takes seconds to import: whoever waits
for a first photo does not want it.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate
from torch.utils.checkpoint import checkpoint

from vfusion3d.learning.attention import attend
from vfusion3d.runs.reading import read_json, read_tensors

SPREAD = 0.02  # of random weights, as transformers draws them
FILED = {  # how transformers calls tensors in files, and how in memory
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


class Dinov2(nn.Module):
    """Normalised pictures to tokens, the class token first. position_grid: patches a side that have positions.

    Pictures of another size take positions in between; what is left of a picture beside whole patches is not seen.
    """

    def __init__(self, width: int, layers: int, heads: int, patch_size: int, position_grid: int):
        super().__init__()
        self.image_size, self.patch_size = position_grid * patch_size, patch_size
        self.embeddings = Embeddings(width, patch_size, position_grid)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.layernorm = nn.LayerNorm(width, eps=1e-6)
        self.gradient_checkpointing = False
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=SPREAD)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.embeddings.position_embeddings, std=SPREAD)
        nn.init.trunc_normal_(self.embeddings.cls_token, std=SPREAD)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens width"]:
        x = self.embeddings(pixels)
        for layer in self.encoder.layer:
            again = self.gradient_checkpointing and torch.is_grad_enabled()
            x = checkpoint(layer, x, use_reentrant=False) if again else layer(x)
        return self.layernorm(x)

    @classmethod
    def from_folder(cls, folder: Path) -> "Dinov2":
        """The model that transformers saved in a folder, without SwiGLU, in float32."""
        config = read_json(folder / "config.json", dict[str, Any])
        width, heads = config["hidden_size"], config["num_attention_heads"]
        patch = config["patch_size"]
        model = cls(width, config["num_hidden_layers"], heads, patch, config["image_size"] // patch)
        tensors, _ = read_tensors(folder / "model.safetensors")
        for filed, name in FILED.items():
            tensors = {tensor.replace(filed, name): value for tensor, value in tensors.items()}
        model.load_state_dict(tensors)
        return model


class Embeddings(nn.Module):
    """A picture's patches and the class token, each with its position."""

    def __init__(self, width: int, patch_size: int, position_grid: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width), requires_grad=False)  # DINOv2's own training only
        self.patch_embeddings = nn.Module()
        self.patch_embeddings.projection = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)
        self.position_embeddings = nn.Parameter(torch.zeros(1, position_grid**2 + 1, width))

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens width"]:
        patches = self.patch_embeddings.projection(pixels)
        tokens = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches.flatten(2).mT], dim=1)
        whole, placed = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        grid = round(placed.shape[1] ** 0.5)
        if patches.shape[-2:] != (grid, grid):
            there = placed.mT.unflatten(2, (grid, grid)).float()
            placed = interpolate(there, patches.shape[-2:], mode="bicubic").flatten(2).mT.to(placed.dtype)
        return tokens + torch.cat([whole, placed], dim=1)


class Layer(nn.Module):
    """Self-attention and an MLP, each behind a LayerNorm and scaled by a learned factor a channel."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = SelfAttention(width, heads)
        self.layer_scale1 = Scale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width)
        self.layer_scale2 = Scale(width)

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        x = x + self.layer_scale1(self.attention(self.norm1(x)))
        return x + self.layer_scale2(self.mlp(self.norm2(x)))


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(attend(q, k, v).transpose(1, 2).flatten(2))


class Scale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.lambda1


class MLP(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x)))
