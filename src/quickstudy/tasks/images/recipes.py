"""Preprocessing by name: how pictures are stored, and what happens to them when a task is drawn.

A recipe is recorded with a run, so that what a learner is shown later is prepared as it was in training.

| recipe | stored | in training | values |
|---|---|---|---|
| none | size, bilinear | - | 0 to 1 |
| finn | size, Lanczos, ink made light | - | 0 to 1 (Finn et al., 2017; the thesis) |
| closerlook | 1.15 size, bilinear, colour, ink dark | resized crop, jitter .4, flip | standardised as ImageNet |
| metaoptnet | size, bilinear, colour | crop after padding by 8, jitter .4, flip | standardised as mini-ImageNet |

In evaluation `closerlook` takes the centre of its larger picture; in training its random crops are taken from that
picture too, not from the original file. Drawings of characters are neither jittered, mirrored nor cropped.

Three things differ from the code that the recipes are named after. Finn's script resizes Omniglot's files as they are,
with one bit per pixel, for which Pillow takes the nearest pixel whatever filter is asked for; here they are made grey
first, so that Lanczos smooths them. MetaOptNet draws the order of brightness, contrast and saturation; here it is
fixed. And `metaoptnet` is its preprocessing of mini-ImageNet at 84 pixels: the padding of 8 and the statistics stay
at other sizes and for other pictures, where its code has others (for CIFAR-FS a padding of 4 and CIFAR's statistics).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.tasks.images import augment
from quickstudy.tasks.images.decode import Decoding

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Preparation:
    """See the module's table.

    Args:
        name: What it is called.
        margin: Side of the stored picture, over the size that is handed out.
        resample: The filter it was resized with.
        colour: Always three channels, also for grey pictures.
        ink: For drawings: make ink "light" on dark or "dark" on light; None leaves it as stored.
        crop: In training: "resized" (a random part, scaled), "padded" (shifted by up to 8 pixels), or None.
        jitter: In training: brightness, contrast and saturation are multiplied by 1 - jitter to 1 + jitter; and flips.
        mean: Subtracted, per channel, values being 0 to 1.
        std: Divided by, per channel.
    """

    name: str
    margin: float = 1.0
    resample: str = "bilinear"
    colour: bool = False
    ink: str | None = None
    crop: str | None = None
    jitter: float = 0.0
    mean: Colour = (0.0, 0.0, 0.0)
    std: Colour = (1.0, 1.0, 1.0)

    def decoding(self, size: int, channels: int, ink: str | None) -> Decoding:
        """How pictures are stored, for a set whose own channels and ink (None for photographs) are these."""
        invert = None not in (ink, self.ink) and ink != self.ink
        return Decoding(int(size * self.margin), 3 if self.colour else channels, self.resample, invert)

    def noise(self, drawing: bool) -> int:
        """How many uniform numbers the augmentation of one picture reads; none where it has no augmentation."""
        return 0 if drawing or self.crop is None else augment.NUMBERS

    def shown(
        self, pixels: UInt8[Tensor, "n channels side side"], size: int, noise: Float[Tensor, "n numbers"] | None
    ) -> Float[Tensor, "n channels size size"]:
        """Stored bytes as a learner sees them. `noise` is given in training, where there is augmentation."""
        if noise is not None:
            x = pixels.to(torch.float32).div_(255)
            x = augment.resize(x, size, noise) if self.crop == "resized" else augment.pad(x, size, 8, noise)
            x = augment.jitter(augment.flip(x, noise), self.jitter, noise)
        else:
            edge = (pixels.shape[-1] - size) // 2
            x = pixels[..., edge : edge + size, edge : edge + size].to(torch.float32).div_(255)
        if self.mean == (0.0, 0.0, 0.0) and self.std == (1.0, 1.0, 1.0):
            return x
        shape = (1, -1, 1, 1)
        return (x - x.new_tensor(self.mean).reshape(shape)) / x.new_tensor(self.std).reshape(shape)


PREPARATIONS = {
    recipe.name: recipe
    for recipe in (
        Preparation("none"),
        Preparation("finn", resample="lanczos", ink="light"),
        Preparation(
            "closerlook",
            margin=1.15,
            colour=True,
            ink="dark",
            crop="resized",
            jitter=0.4,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        Preparation(
            "metaoptnet",
            colour=True,
            crop="padded",
            jitter=0.4,
            mean=(120.396 / 255, 115.594 / 255, 104.540 / 255),
            std=(70.682 / 255, 68.276 / 255, 72.545 / 255),
        ),
    )
}


def preparation_named(name: str) -> Preparation:
    """A recipe by name."""
    if name not in PREPARATIONS:
        raise InputError(f"There is no recipe {name!r}. {suggest_nearest(name, PREPARATIONS)}")
    return PREPARATIONS[name]
