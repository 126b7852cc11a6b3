"""Recipes: preprocessing by name. A recipe says how pictures are stored and how they are prepared for a task.

A recipe is recorded with a run, so that later pictures are prepared as they were in training.

| recipe | stored | in training | values |
|---|---|---|---|
| none | size, bilinear | - | 0 to 1 |
| finn | size, Lanczos, ink made light | - | 0 to 1 (Finn et al., 2017; the thesis) |
| distorted | as finn | drawings turned, slanted, scaled and shifted a little | 0 to 1 |
| closerlook | 1.15 size, bilinear, colour, ink dark | resized crop, jitter .4, flip | standardised as ImageNet |
| metaoptnet | size, bilinear, colour | crop after padding by 8, jitter .4, flip | standardised as mini-ImageNet |

In evaluation `closerlook` takes the centre of the larger stored picture. In training its random crops are taken from
that stored picture too, not from the original file. Drawings of characters are not jittered, mirrored or cropped, and
photographs are not distorted.

Three things differ from the code that the recipes are named after. First, Finn's script resizes Omniglot's files with
one bit per pixel; then Pillow takes the nearest pixel, whatever the filter. Here they become grey first, so that
Lanczos smooths them. Second, MetaOptNet draws the order of brightness, contrast and saturation; here it is fixed.
Third, `metaoptnet` is its preprocessing of mini-ImageNet at 84 pixels: the padding of 8 and the statistics are the same
for other sizes and pictures, where its code has others (for CIFAR-FS a padding of 4 and CIFAR's statistics).
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.tasks.images import augment
from quickstudy.tasks.images.decode import Decoding
from quickstudy.types import Integer

ColourValues = tuple[float, float, float]


@dataclass(frozen=True)
class Preparation:
    """One recipe; see the table of the module.

    Args:
        name: The name of the recipe.
        margin: The side of the stored picture, divided by the size of the inputs.
        resample: The filter for resizing.
        colour: Whether to use three channels also for grey pictures.
        ink: For drawings: make ink "light" on dark or "dark" on light. None does not change it.
        crop: In training: "resized" (a random part, scaled), "padded" (shifted by up to 8 pixels), or None.
        jitter: In training: brightness, contrast and saturation are multiplied by 1 - jitter to 1 + jitter, and half of
            the pictures are mirrored.
        distort: In training: how strongly drawings are turned, slanted, scaled and shifted: see `augment.distort`. A
            fingerprint of data is made of the text of a recipe, which this is no part of: older data keep theirs.
        mean: Subtracted from each channel, whose values are 0 to 1.
        std: Each channel is divided by it.
    """

    name: str
    margin: float = 1.0
    resample: str = "bilinear"
    colour: bool = False
    ink: str | None = None
    crop: str | None = None
    jitter: float = 0.0
    distort: float = field(default=0.0, repr=False)
    mean: ColourValues = (0.0, 0.0, 0.0)
    std: ColourValues = (1.0, 1.0, 1.0)

    def decoding(self, size: Integer, channels: Integer, ink: str | None, fit: str = "stretch") -> Decoding:
        """How to store pictures for inputs of a size. `channels` and `ink` are those of the set (None: photographs)."""
        invert = None not in (ink, self.ink) and ink != self.ink
        return Decoding(int(size * self.margin), 3 if self.colour else channels, self.resample, invert, fit)

    def noise(self, drawing: bool) -> int:
        """How many uniform numbers the augmentation of one picture reads; 0 without augmentation."""
        is_augmented = self.distort > 0 if drawing else self.crop is not None
        return augment.NUMBERS_PER_PICTURE if is_augmented else 0

    def prepare(
        self, pixels: UInt8[Tensor, "n channels side side"], size: Integer, noise: Float[Tensor, "n numbers"] | None
    ) -> Float[Tensor, "n channels size size"]:
        """Prepare stored bytes for a learner. With `noise` the pictures are augmented, as in training."""
        if noise is None or self.crop is None:  # the middle; crops are taken from the whole
            edge = (pixels.shape[-1] - size) // 2
            pixels = pixels[..., edge : edge + size, edge : edge + size]
        x = pixels.to(torch.float32).div_(255)
        if noise is not None:
            x = self._augment(x, size, noise)
        if self.mean == (0.0, 0.0, 0.0) and self.std == (1.0, 1.0, 1.0):
            return x
        shape = (1, -1, 1, 1)
        return (x - x.new_tensor(self.mean).reshape(shape)) / x.new_tensor(self.std).reshape(shape)

    def _augment(
        self, x: Float[Tensor, "n channels side side"], size: Integer, noise: Float[Tensor, "n numbers"]
    ) -> Float[Tensor, "n channels size size"]:
        if self.crop is None:
            return augment.distort(x, self.distort, noise)
        x = (
            augment.crop_and_resize(x, size, noise)
            if self.crop == "resized"
            else augment.pad_and_crop(x, size, 8, noise)
        )
        return augment.jitter(augment.flip(x, noise), self.jitter, noise)


PREPARATIONS = {
    recipe.name: recipe
    for recipe in (
        Preparation("none"),
        Preparation("finn", resample="lanczos", ink="light"),
        Preparation("distorted", resample="lanczos", ink="light", distort=0.7),
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
    """The recipe with this name."""
    if name not in PREPARATIONS:
        raise InputError(f"There is no recipe {name!r}. {suggest_nearest(name, PREPARATIONS)}")
    return PREPARATIONS[name]
