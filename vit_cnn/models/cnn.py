"""The CNN: three pairs of 3×3 convolutions, each followed by pooling, then three linear layers."""

from torch import Tensor, nn


class CNN(nn.Module):
    """Convolutional network for small square images, in the manner of VGG (https://arxiv.org/abs/1409.1556).

    Args:
        image_size: side of the images in pixels; a multiple of 8, since it is halved three times.
        num_channels: channels of the images.
        num_classes: number of logits.

    Shape: images [b, num_channels, image_size, image_size] → logits [b, num_classes].

    Raises:
        ValueError: ``image_size`` is not a multiple of 8.
    """

    def __init__(self, *, image_size: int, num_channels: int, num_classes: int) -> None:
        super().__init__()
        if image_size < 8 or image_size % 8:
            raise ValueError(f"image_size={image_size} must be a multiple of 8: the CNN halves it three times")
        self.features = nn.Sequential(
            *convolution_pair(num_channels, 32, 64),
            *convolution_pair(64, 128, 128),
            *convolution_pair(128, 256, 256),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(256 * (image_size // 8) ** 2, 1024),
            nn.ReLU(),
            nn.Linear(1024, 512),
            nn.ReLU(),
            nn.Linear(512, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def convolution_pair(c_in: int, c_between: int, c_out: int) -> list[nn.Module]:
    """Two 3×3 convolutions, then half the size: [b, c_in, 2h, 2w] → [b, c_out, h, w].

    One batch norm for both, after the pooling, as in the deck. A batch norm right after a convolution would cancel its
    bias; here a ReLU lies between, so the biases stay. The second ReLU comes after the pooling: the largest of four
    values cut off at 0 is the largest of the four, cut off at 0. The same bits, forward and backward, for a quarter of
    the work.
    """
    return [
        nn.Conv2d(c_in, c_between, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(c_between, c_out, kernel_size=3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.BatchNorm2d(c_out),
    ]
