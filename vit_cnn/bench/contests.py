"""What is measured against what: a method for each table of the benchmark."""

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from vit_cnn.bench import peers
from vit_cnn.bench.contenders import Contenders, switched
from vit_cnn.bench.loops import EPOCH_STEPS, grown, in_fresh_process, our_loop, steps_alone, usual_loop
from vit_cnn.bench.measure import OperatorTimes, Row, command_seconds, in_rounds, saved_bytes, spread
from vit_cnn.bench.noise import noise_config
from vit_cnn.config.schema import Recipe
from vit_cnn.data import Dataset
from vit_cnn.models import CNN
from vit_cnn.models.size import flops_per_image
from vit_cnn.training.augment import Augmentation
from vit_cnn.training.batches import Batches
from vit_cnn.training.ema import WeightAverage
from vit_cnn.training.precision import autocast_for

OPERATORS = 12  # listed in a profile


class Bench(Contenders):
    """Measures the contenders on one device."""

    def start(self) -> list[Row]:
        """Whole commands, each the median of three."""
        config_seconds = statistics.median(command_seconds(["--cfg", "job"]) for _ in range(3))
        with tempfile.TemporaryDirectory() as folder:
            first_steps = []
            for number in range(3):
                run = Path(folder) / str(number)
                overrides = [*self.overrides, "data=digits", "max_steps=1", "trainer.log_every=1"]
                arguments = [*overrides, f"hydra.run.dir={run}", "wandb.mode=disabled"]
                first_steps.append(command_seconds(arguments, until=run / "metrics.jsonl"))
        return [
            {"what": "the config on the screen (--cfg job)", "seconds": round(config_seconds, 2)},
            {"what": "the first training step's line of metrics", "seconds": round(statistics.median(first_steps), 2)},
        ]

    def steps(self) -> list[Row]:
        """A training step and an evaluation pass of each contender, and what share of the machine's peak that is."""
        contenders = self.contenders()
        steps = {name: self.training_step(network) for name, network in contenders.items()}
        evaluations = {name: self.evaluation(network) for name, network in contenders.items()}
        step_times, eval_times = in_rounds(steps, rounds=self.rounds), in_rounds(evaluations, rounds=self.rounds)
        rows = []
        for name, network in contenders.items():
            kind = name.split(",")[0]
            flops = flops_per_image(contenders[f"{kind}, ours"], self.noise(1))
            middle = statistics.median(step_times[name])
            peer_times = [
                statistics.median(times)
                for other, times in step_times.items()
                if other.startswith(kind) and "ours" not in other
            ]
            rows.append(
                {
                    "network": name,
                    **spread(step_times[name]),
                    "train_images_per_second": round(self.batch / middle),
                    "times_fastest_peer": round(min(peer_times) / middle, 2),
                    "share_of_peak": round(3 * flops * self.batch / middle / self.peak, 3),
                    "eval_images_per_second": round(self.eval_batch / statistics.median(eval_times[name])),
                    "saved_for_backward_mb": round(saved_bytes(network, self.noise(self.batch), self.autocast) / 1e6),
                }
            )
        return rows

    def switches(self) -> list[Row]:
        """What each piece that can be switched off brings, and what bf16 brings to us and to others."""
        bf16, plain_cnn = autocast_for(self.device, "bf16"), peers.PlainCNN(**self.shape)
        steps = {
            "ViT, ours": self.training_step(self.vit()),
            "ViT, PyTorch's dropout": self.training_step(switched(self.vit(), raw_bytes=False)),
            "ViT, linear layers as matrix products": self.training_step(switched(self.vit(), as_convolution=False)),
            "ViT, all tokens in the last block": self.training_step(switched(self.vit(), only_cls_at_the_end=False)),
            "ViT, no dropout at all": self.training_step(self.vit(dropout=0.0)),
            "ViT, ours, bf16": self.training_step(self.vit(), autocast=bf16),
            "ViT, timm, bf16": self.training_step(peers.timm_vit(**self.sizes), autocast=bf16),
            "ViT, vit-pytorch, bf16": self.training_step(peers.vit_pytorch_vit(**self.sizes), autocast=bf16),
            "CNN, ours": self.training_step(self.cnn()),
            "CNN, NCHW": self.training_step(CNN(**self.shape)),
            "CNN, ReLU before pooling": self.training_step(plain_cnn.to(memory_format=torch.channels_last)),
            "CNN, ours, bf16": self.training_step(self.cnn(), autocast=bf16),
            "CNN, plain NCHW, bf16": self.training_step(peers.PlainCNN(**self.shape), autocast=bf16),
        }
        if self.device.type == "cuda":
            steps["ViT, plain attention"] = self.training_step(switched(self.vit(), fused_on=()))
            for name, make in {"ViT": self.vit, "CNN": self.cnn}.items():
                steps[f"{name}, CUDA graph"] = self.training_step(make(), graph=True)
                steps[f"{name}, compiled"] = self.training_step(make(), compiled=True)
                steps[f"{name}, compiled, CUDA graph"] = self.training_step(make(), compiled=True, graph=True)
        times = in_rounds(steps, rounds=self.rounds)
        ours = {kind: statistics.median(times[f"{kind}, ours"]) for kind in ("ViT", "CNN")}
        return [
            {"network": name, **spread(each), "times_ours": round(statistics.median(each) / ours[name[:3]], 2)}
            for name, each in times.items()
        ]

    def profile(self) -> list[Row]:
        """Where a training step's time goes, by operator; the rest is Python and the random bytes of dropout."""
        rows = []
        for name, network in {"ViT": self.vit(), "CNN": self.cnn()}.items():
            step = self.training_step(network)
            in_rounds({"": step}, rounds=3)
            started = time.perf_counter()
            with OperatorTimes() as operators:
                for _ in range(self.rounds):
                    step()
            total = time.perf_counter() - started
            inside = sum(operators.seconds.values())
            seconds = dict(sorted(operators.seconds.items(), key=lambda item: -item[1])[:OPERATORS])
            seconds["other operators"] = inside - sum(seconds.values())
            seconds["outside operators"] = total - inside
            for operator, each in seconds.items():
                share = round(each / total, 3)
                rows.append(
                    {"network": name, "operator": operator, "ms": round(1000 * each / self.rounds, 1), "share": share}
                )
        return rows

    def epoch(self) -> list[Row]:
        """Our loop against its steps alone and the usual loop with a DataLoader, each in a process of its own.

        There, each is as one would run it: peers do without ``keep_freed_memory``.
        """
        rows = []
        for model, peer in (("vit", "vit-pytorch"), ("cnn", "plain NCHW")):
            loops: dict[str, Callable[..., float]] = {
                "the steps alone": steps_alone,
                f"the steps alone, {peer}": functools.partial(steps_alone, peer=True),
                "our loop": our_loop,
                "DataLoader loop, our network": usual_loop,
                f"DataLoader loop, {peer}": functools.partial(usual_loop, peer=True),
            }
            arguments = (model, self.batch, self.overrides)
            work = {name: functools.partial(in_fresh_process, loop, *arguments) for name, loop in loops.items()}
            times = in_rounds(work, rounds=3, warm_up=0)
            for name, each in times.items():
                images_per_second = round(EPOCH_STEPS * self.batch / statistics.median(each))
                # Within a round, since the machine's speed drifts from one to the next by as much as loops differ.
                ratios = [mine / alone for mine, alone in zip(each, times["the steps alone"], strict=True)]
                row = {"network": model, "loop": name, **spread(each), "images_per_second": images_per_second}
                rows.append(row | {"times_the_steps_alone": round(statistics.median(ratios), 3)})
        return rows

    def images(self) -> list[Row]:
        """What grows with the number of images: memory, and the time for everything but the network."""
        rows = []
        for number in (1_000, 5_000, 10_000, 50_000):
            cfg = noise_config(*self.overrides, images=number, batch=self.batch)
            data: Dataset = instantiate(cfg.data).to(self.device)
            batches = Batches(Augmentation(cast(Recipe, OmegaConf.to_object(cfg.recipe)), data=data, seed=0))

            def pass_over(batches: Batches = batches) -> None:
                for _ in batches.of_epoch(0):
                    pass

            times = in_rounds({"": pass_over}, rounds=3)[""]
            rate = round(number / statistics.median(times))
            memory = round(data.train.images.nbytes / 1e6, 1)
            rows.append({"images": number, **spread(times), "images_per_second": rate, "data_mb": memory})
        return rows

    def augmentation(self) -> list[Row]:
        """A batch without the network, gathered, normalised and augmented, with one ingredient each; last an EMA."""
        plain = ["recipe=modern", "recipe.augment.flip=false", "recipe.augment.crop_padding=0"]
        kinds = {
            "nothing": plain,
            "flip": [*plain, "recipe.augment.flip=true"],
            "alternating flip": [*plain, "recipe.augment.flip=alternating"],
            "padded crop": [*plain, "recipe.augment.crop_padding=4"],
            "resized crop": [*plain, "recipe.augment.crop_scale=[0.8,1]"],
            "TrivialAugment": [*plain, "recipe.augment.policy=trivial"],
            "AutoAugment": [*plain, "recipe.augment.policy=autoaugment"],
            "random erasing": [*plain, "recipe.augment.erasing_probability=0.25"],
            "CutMix and MixUp": [*plain, "recipe.mixing.probability=0.5"],
            "all of recipe=strong": ["recipe=strong"],
        }
        batches = {name: self.training_batches(overrides) for name, overrides in kinds.items()}
        batches["average of the ViT's weights (EMA)"] = WeightAverage(self.vit().to(self.device), decay=0.998).update
        return [{"augmentation": name, **spread(each)} for name, each in in_rounds(batches, rounds=20).items()]

    def training_batches(self, overrides: list[str]) -> Callable[[], object]:
        """What makes one training batch of a recipe, on random images; training on a GPU makes several at once."""
        cfg = noise_config(*self.overrides, *overrides, images=1000, batch=self.batch)
        data: Dataset = instantiate(cfg.data).to(self.device)
        batches = Batches(Augmentation(cast(Recipe, OmegaConf.to_object(cfg.recipe)), data=data, seed=0))
        return lambda: batches.make([(0, torch.arange(self.batch))], epoch=0)

    def growth(self) -> list[Row]:
        """Time and memory of a training step against batch, image size and patch size, in processes of their own."""
        rows = []
        for what, values in {"batch": (32, 128, 256), "image_size": (32, 64), "patch_size": (8, 4, 2)}.items():
            for value in values:
                for model in ("vit", "cnn") if what != "patch_size" else ("vit",):
                    row = in_fresh_process(grown, model, self.batch, self.overrides, what, value)
                    rows.append({"network": model, "varied": what, "value": value, **row})
        return rows
