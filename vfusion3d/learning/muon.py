"""AdamW with Muon (Jordan et al., 2024) for the matrices and convolutions of repeated blocks: fewer samples are enough.

`torch.optim.Muon` works in bfloat16 whatever the machine, which on a CPU without bfloat16 instructions made our steps
four times slower, and it wants a second optimizer beside it for everything else.
"""

from collections import defaultdict

import torch
from jaxtyping import Float
from torch import Tensor

from vfusion3d.learning.precision import has_bfloat16

MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients: singular values end in about [0.7, 1.2] after 5 steps
STEPS = 5
ADAM_RMS = 0.2  # the usual size of an AdamW update, so that one learning rate serves both (Liu et al., 2025)


class MuonAdamW(torch.optim.AdamW):
    """AdamW, but groups with `"muon": True` are updated by their orthogonalised momentum.

    Those hold matrices, and convolutions, which are matrices of one row a filter.
    """

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike = defaultdict(list)  # matrices of one shape go together, or a GPU would mostly wait for launches
            for parameter in group["params"] if group.get("muon") else []:
                if parameter.grad is not None:
                    alike[parameter.flatten(1).shape].append(parameter)
            for parameters in alike.values():
                self._update_alike(parameters, group)
        super().step()
        return loss

    def _update_alike(self, parameters: list[Tensor], group: dict) -> None:
        ahead = []
        for parameter in parameters:
            gradient, parameter.grad = parameter.grad, None  # AdamW passes over parameters without a gradient
            state = self.state[parameter]
            if not state:  # AdamW wants to find a step counter wherever there is a state
                state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(parameter)
            state["step"] += 1
            momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
            ahead.append(gradient.lerp(momentum, MOMENTUM).flatten(1))
        size = group["lr"] * ADAM_RMS * max(ahead[0].shape) ** 0.5
        for parameter, update in zip(parameters, orthogonalised(torch.stack(ahead)), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.view_as(parameter), alpha=-size)


def orthogonalised(matrices: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch rows columns"]:
    """About U V^T of each matrix's singular value decomposition U S V^T, by 5 Newton-Schulz steps.

    In bfloat16 on a GPU and on a CPU that has instructions for it, else in the matrices' own type.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16() if matrices.is_cuda or has_bfloat16() else matrices
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    x = x.flatten(0, -3) if x.ndim > 2 else x[None]
    for _ in range(STEPS):  # x <- a x + (b gram + c gram^2) x; `baddbmm` adds while it multiplies
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype).contiguous().view(matrices.shape)
