"""What fp32 means, and mixed precision."""

import torch


def use_whole_fp32() -> None:
    """Let fp32 be fp32 on CUDA, in matrix products and convolutions alike.

    By default PyTorch rounds the inputs of convolutions, but not of matrix products, to the ten bits of TF32: then
    "fp32" would mean two things, and a share of the peak would compare one with the other.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def autocast_for(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision as a context that can be entered again and again; does nothing for fp32."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")
