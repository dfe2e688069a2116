"""A training step over several processes: each learns from its share of the batch, and all from the whole of it.

A plain sum over all gradients, in place of torch's ``DistributedDataParallel``: the loop, checkpoints, compiling and
captured steps stay what they are for one process, and a process that is gone is noticed and told at one place. What it
gives up is to send gradients while the backward pass goes on, which matters little for networks of 3 to 6 million
parameters. ``tests/test_processes.py`` holds two processes against one, step by step.
"""

import torch
from torch import Tensor, nn

from vit_cnn.errors import Refused
from vit_cnn.processes.together import add, here, take_over


def own_share(chosen: Tensor, draws: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The part of a batch that this process learns from, and before it one image more, its ``partner``.

    Each image is mixed with the one before it in the whole batch, and so the first one of a share with the last one of
    the share before. A process alone has the whole batch, and nothing before it.

    Args:
        chosen: positions of the whole batch's images [b].
        draws: random numbers of the whole batch: so an image meets the same ones however many processes there are.

    Returns:
        Positions [b / processes + 1], or of a process alone [b], and their numbers.
    """
    if here.number == 1:
        return chosen, draws
    size = len(chosen) // here.number
    mine = (torch.arange(-1, size) + here.rank * size) % len(chosen)
    return chosen[mine], {name: drawn[mine] for name, drawn in draws.items()}


def average(tensors: list[Tensor]) -> None:
    """Give each tensor, in place, its mean over all processes; the same bits in each of them."""
    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
    parts = add(flat).div_(here.number).split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)])


def begin_alike(model: nn.Module) -> None:
    """Give ``model`` the weights that it has in process 0: other processors may have rounded in another way."""
    for tensor in model.state_dict().values():
        take_over(tensor)


def statistics_of(model: nn.Module) -> list[Tensor]:
    """Running means and variances of batch norms, each of which knows the share of its process alone."""
    alone = [norm for norm in model.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    found = [(norm.running_mean, norm.running_var) for norm in alone if not isinstance(norm, GlobalBatchNorm)]
    return [tensor for pair in found for tensor in pair if tensor is not None]


def with_global_batch_norm(model: nn.Module) -> nn.Module:
    """Let the batch norms of ``model`` see the whole batch, in place.

    Raises:
        Refused: it has one of a kind that is not PyTorch's own, which may do more.
    """
    for name, child in model.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            if type(child) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) or child.momentum is None:
                raise Refused(
                    f"trainer.sync_batchnorm=true knows PyTorch's own batch norms with a momentum, and not "
                    f"{type(child).__module__}.{type(child).__name__}: use false, which normalises each share alone"
                )
            setattr(model, name, GlobalBatchNorm(child))
        else:
            with_global_batch_norm(child)
    return model


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the images of all processes, on every device; PyTorch's ``SyncBatchNorm`` refuses CPUs.

    Args:
        norm: of which it takes over parameters, statistics and settings.

    Shape: [b, c, …] → the same; ``b`` has to be equal in all processes.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name, tensor in [*norm.named_parameters(), *norm.named_buffers()]:
            setattr(self, name, tensor)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes will do."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        with torch.autocast(x.device.type, enabled=False):
            values = x.float()
            mean = Total.apply(values.mean(axes)) / here.number
            centred = values - mean.view(shape)
            variance = Total.apply(centred.square().mean(axes)) / here.number
            scale = (variance + self.eps).rsqrt()
            if self.affine:
                scale = scale * self.weight
            normed = centred * scale.view(shape)
            if self.affine:
                normed = normed + self.bias.view(shape)
        if self.running_mean is not None and self.running_var is not None and self.momentum is not None:
            count = x.numel() // x.shape[1] * here.number
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(variance.detach() * (count / (count - 1)), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return normed.to(x.dtype)


class Total(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum over all processes of theirs."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        return add(values.clone())

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return add(gradient.clone())
