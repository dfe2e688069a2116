"""Mixed precision."""

import torch


def autocast_for(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision as a context that can be entered again and again; does nothing for fp32."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")
