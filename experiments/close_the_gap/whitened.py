"""First weights for a CNN whose first convolution whitens: python whitened.py SEED FILE.safetensors, then init=FILE.

Half of its filters are the principal components of the training images' patches of 3×3 pixels, each divided by the
standard deviation along it; the other half are their negatives, since a ReLU follows. All other weights are those with
which a run of that seed begins. Source: https://github.com/KellerJordan/cifar10-airbench.
"""

import sys

import torch
import torch.nn.functional as F
from einops import rearrange
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import save_file

from vit_cnn import config
from vit_cnn.data.batches import normalise

with initialize_config_dir(str(config.CONF), version_base="1.3"):
    cfg = compose("config", overrides=["model=cnn", "data=cifar10_lossless"])
data = instantiate(cfg.data)
images = normalise(data.train.images[::9], data.mean, data.std)  # 5,000 of them
patches = rearrange(F.unfold(images, 3), "n patch position -> (n position) patch").double()
variances, components = torch.linalg.eigh(patches.T @ patches / len(patches))
filters = (components / (variances + 5e-4).sqrt()).T.flip(0)[:16].float()  # the largest 16

torch.manual_seed(int(sys.argv[1]))
model = instantiate(cfg.model)
with torch.no_grad():
    first = model.features[0]
    first.weight.copy_(rearrange(torch.cat([filters, -filters]), "d (c h w) -> d c h w", c=3, h=3))
    first.bias.zero_()
save_file(model.state_dict(), sys.argv[2])
