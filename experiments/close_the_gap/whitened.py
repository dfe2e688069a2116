"""First weights for a CNN whose first convolution whitens: python whitened.py SEED FILE.safetensors, then init=FILE.

Half of its filters are the 16 largest of the 27 principal components of patches of 3×3 pixels of 5,000 training images,
each divided by the standard deviation along it; the other half are their negatives, since a ReLU follows. Its bias
is 0. All other weights are those with which a run of that seed begins. Needs $VIT_CNN_DATA/cifar10-lossless.

Source: https://github.com/KellerJordan/cifar10-airbench: filters of 2×2 pixels, all 12 components, frozen.
"""

import sys

import torch
import torch.nn.functional as F
from einops import rearrange
from hydra.utils import instantiate
from safetensors.torch import save_file

from vit_cnn import config
from vit_cnn.data.batches import normalise

cfg = config.composed("model=cnn", "data=cifar10_lossless")
data = instantiate(cfg.data)
images = normalise(data.train.images[::9], data.mean, data.std)
patches = rearrange(F.unfold(images, 3), "n value position -> (n position) value").double()
variances, components = torch.linalg.eigh(patches.T @ patches / len(patches))
filters = (components / (variances + 5e-4).sqrt()).T.flip(0)[:16].float()  # the largest 16; 5e-4 as in airbench

torch.manual_seed(int(sys.argv[1]))
model = instantiate(cfg.model)
with torch.no_grad():
    first = model.features[0]
    first.weight.copy_(rearrange(torch.cat([filters, -filters]), "d (c h w) -> d c h w", c=3, h=3))
    first.bias.zero_()
save_file(model.state_dict(), sys.argv[2])
