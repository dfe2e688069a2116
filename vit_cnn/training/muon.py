"""Muon for hidden weights and AdamW for the rest, behind the face of one optimiser."""

import contextlib
from collections.abc import MutableMapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vit_cnn.machine import has_quick_bf16


class FilterMuon(torch.optim.Muon):
    """PyTorch's Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) for convolutions, too.

    To Muon the filters of a convolution are a matrix with a row for each. PyTorch's takes matrices alone: it is built
    with them, then holds the filters, and each step sees these as matrices again.
    """

    def __init__(self, groups: list[dict[str, Any]], **settings: Any) -> None:
        matrices = [[as_matrix(weight.detach()) for weight in group["params"]] for group in groups]
        super().__init__([{**group, "params": each} for group, each in zip(groups, matrices, strict=True)], **settings)
        for held, group in zip(self.param_groups, groups, strict=True):
            held["params"] = group["params"]

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        device = self.param_groups[0]["params"][0].device
        with contextlib.nullcontext() if has_quick_bf16(device) else InFp32():
            super().step(closure)

    def _init_group(self, group: MutableMapping[str, Any], *lists: list[Tensor]) -> bool:
        """Fill the lists of weights, gradients and momenta that a step works on, and show each as a matrix."""
        is_complex = super()._init_group(group, *lists)
        for tensors in lists:
            tensors[:] = [as_matrix(each) for each in tensors]
        return is_complex


def as_matrix(weight: Tensor) -> Tensor:
    """Filters [c_out, c_in, h, w] as [c_out, c_in · h · w], in the same memory in either format; a matrix as it is."""
    if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        return rearrange(weight, "c_out c_in h w -> c_out (h w c_in)")
    return weight.flatten(1)


class InFp32(TorchFunctionMode):
    """Within it, ``bfloat16()`` copies and leaves the precision as it is.

    PyTorch's Muon makes its updates orthogonal in bf16. Without units for it that would take four times as long as all
    the rest of a step.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0].clone() if func is Tensor.bfloat16 else func(*args, **(kwargs or {}))


class MuonAndAdamW(torch.optim.Optimizer):
    """Both share a learning rate and a weight decay.

    For that Muon's steps are scaled to the size of AdamW's (https://arxiv.org/abs/2502.16982).

    Args:
        hidden: weights of linear layers and convolutions, which Muon changes.
        groups: all parameters, as groups with a ``weight_decay`` each.
    """

    def __init__(
        self,
        hidden: list[nn.Parameter],
        groups: list[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
    ) -> None:  # no call of the base class: the two optimisers inside hold groups and state
        chosen = {id(weight) for weight in hidden}
        parts: list[list[dict[str, Any]]] = [[], []]
        for group in groups:
            for part, is_muons in zip(parts, (True, False), strict=True):
                found = [parameter for parameter in group["params"] if (id(parameter) in chosen) == is_muons]
                if found:
                    part.append({**group, "params": found})
        self.muon = FilterMuon(parts[0], lr=lr, momentum=momentum, adjust_lr_fn="match_rms_adamw")
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

        But its step is in proportion to the rate. So Muon makes the step of rate 1, and the weights go as much of
        that way as the rate says.
        """
        before = [[weight.clone() for weight in group["params"]] for group in groups]
        for group in groups:
            group["lr"] = 1.0
        self.muon.step()
        for group, rate, starts in zip(groups, rates, before, strict=True):
            group["lr"] = rate
            for weight, start in zip(group["params"], starts, strict=True):
                weight.copy_(start.lerp(weight, rate))

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.muon.zero_grad(set_to_none)
        self.adamw.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
