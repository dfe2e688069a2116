"""The network as a program of its own: normalisation inside, uint8 pixels in, logits out."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vit_cnn.data.batches import normalise
from vit_cnn.errors import Refused, first_line, limit_reached
from vit_cnn.models.linear import Linear
from vit_cnn.run.files import write_atomically
from vit_cnn.run.trained import TrainedRun


class Program(nn.Module):
    """A network with its normalisation.

    Args:
        attention: whether a ViT's attention maps come out too.

    Shape: uint8 images [b, c, h, w] → logits [b, classes], with ``attention`` also maps [b, layers, heads, n, n].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, run: TrainedRun, *, attention: bool) -> None:
        super().__init__()
        self.network: Any = run.model
        self.attention = attention
        self.register_buffer("mean", run.mean)
        self.register_buffer("std", run.std)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        pixels = normalise(images, self.mean, self.std)
        logits: Tensor = self.network(pixels)
        return (logits, self.network.attention_maps(pixels)) if self.attention else logits


@contextlib.contextmanager
def plain(form: str) -> Iterator[None]:
    """Linear layers as matrix products, whatever is quicker on this machine, and no word from the exporters.

    Raises:
        Refused: the network cannot be written in this form; in a line.
    """
    quick, Linear.as_convolution = Linear.as_convolution, False
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # they raise many kinds, with pages of text
        if limit_reached(error):
            raise
        raise Refused(f"--format {form}: the network cannot be exported: {first_line(error)}") from error
    finally:
        logging.disable(disabled)
        Linear.as_convolution = quick


def example(run: TrainedRun) -> Tensor:
    """Two empty images: with a single one, the exporter would take the batch for a constant."""
    return torch.zeros(2, run.num_channels, run.image_size, run.image_size, dtype=torch.uint8)


def write_torch(run: TrainedRun, path: Path, *, attention: bool) -> None:
    """A program that ``torch.export.load`` reads, for batches of any size."""
    written = io.BytesIO()
    with plain("torch"):
        program = torch.export.export(
            Program(run, attention=attention),
            (example(run),),
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
        torch.export.save(program, written)
    write_atomically(path, lambda file: file.write(written.getbuffer()))


def write_onnx(run: TrainedRun, folder: Path, *, attention: bool) -> None:
    """``model.onnx`` for batches of any size; the same with float16 inside, and with int8 in its linear layers.

    The int8 ones are quantised dynamically: weights once, by output channel; activations as they come.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.float16 import convert_float_to_float16

    path = folder / "model.onnx"
    with plain("onnx"):
        torch.onnx.export(
            Program(run, attention=attention),
            (example(run),),
            path,
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=["images"],
            output_names=["logits", "attention"] if attention else ["logits"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
        onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), folder / "model.fp16.onnx")
        quantize_dynamic(
            path,
            folder / "model.int8.onnx",
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,  # processors without units for int8 add pairs of products in 16 bits, which overflow
            weight_type=QuantType.QInt8,
        )
