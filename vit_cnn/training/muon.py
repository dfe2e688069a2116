"""Muon for matrices and AdamW for the rest, behind the face of one optimiser."""

from typing import Any

import torch
from torch import Tensor, nn


class MuonAndAdamW(torch.optim.Optimizer):
    """PyTorch's Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) knows matrices alone.

    Muon's steps are scaled to the size of AdamW's (https://arxiv.org/abs/2502.16982), so that both share a learning
    rate and a weight decay.

    Args:
        matrices: parameters of two dimensions that Muon changes.
        groups: all parameters, as groups with a ``weight_decay`` each.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        groups: list[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
    ) -> None:  # no call of the base class: the two optimisers inside hold groups and state
        chosen = {id(matrix) for matrix in matrices}
        parts: list[list[dict[str, Any]]] = [[], []]
        for group in groups:
            for part, is_muons in zip(parts, (True, False), strict=True):
                found = [parameter for parameter in group["params"] if (id(parameter) in chosen) == is_muons]
                if found:
                    part.append({**group, "params": found})
        self.muon = torch.optim.Muon(parts[0], lr=lr, momentum=momentum, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(parts[1], lr=lr, betas=betas, fused=True)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return [*self.muon.param_groups, *self.adamw.param_groups]

    @property
    def state(self) -> dict[Tensor, Any]:  # type: ignore[override]
        return {**self.muon.state, **self.adamw.state}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        groups = self.muon.param_groups
        rates = [group["lr"] for group in groups]
        if isinstance(rates[0], Tensor):
            self.step_on_device(groups, rates)
        else:
            self.muon.step()
        self.adamw.step()

    def step_on_device(self, groups: list[dict[str, Any]], rates: list[Tensor]) -> None:
        """Muon reads its learning rate on the host, which would wait for the device and could not be captured.

        But its step is in proportion to the rate. So Muon makes the step of rate 1, and the matrices go as much of
        that way as the rate says.
        """
        before = [[matrix.clone() for matrix in group["params"]] for group in groups]
        for group in groups:
            group["lr"] = 1.0
        self.muon.step()
        for group, rate, starts in zip(groups, rates, before, strict=True):
            group["lr"] = rate
            for matrix, start in zip(group["params"], starts, strict=True):
                matrix.copy_(start.lerp(matrix, rate))

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.muon.zero_grad(set_to_none)
        self.adamw.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
