"""Image tasks: recipes and augmentation on made pictures, tasks and their definition, sets on made and real files."""

import hashlib
import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import find_real_set, listing_of
from quickstudy.errors import InputError
from quickstudy.evaluation.evaluate import task_batches
from quickstudy.tasks import FAMILIES, Batches, Cross
from quickstudy.tasks.draws import SPLITS, Draws
from quickstudy.tasks.images import augment, sets, store
from quickstudy.tasks.images.family import ROTATIONS, ImageEpisodes, rotate_classes
from quickstudy.tasks.images.inputs import picture_input
from quickstudy.tasks.images.listing import FilePictures
from quickstudy.tasks.images.preparations import PREPARATIONS, preparation_named
from quickstudy.tasks.images.published import published_split
from quickstudy.tasks.images.sets import IMAGE_SETS, ImageSet, LeftOutWarning, data_root, image_folder
from quickstudy.tasks.splits import split_by_class, split_by_image
from quickstudy.types import pick

AREA, RATIO, LEFT, TOP, FLIP, BRIGHTNESS, CONTRAST, SATURATION = range(augment.NUMBERS_PER_PICTURE)
TURN, SLANT, WIDTH, HEIGHT, RIGHT, DOWN = range(6)


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    """Every test has a cache and a data root of its own."""
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path / "data"))


def made(seed: int, *shape: int) -> torch.Tensor:
    """Uniform numbers in double precision."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numbers(n: int = 1, **columns: float) -> torch.Tensor:
    """Noise for which `flip`, `jitter`, `pad_and_crop` and `distort` change nothing, except in these columns."""
    noise = torch.full((n, augment.NUMBERS_PER_PICTURE), 0.5, dtype=torch.float64)
    for name, value in columns.items():
        noise[:, globals()[name]] = value
    return noise


# -- recipes --


def test_every_recipe_hands_out_the_size_asked_for():
    for recipe in PREPARATIONS.values():
        how = recipe.decoding(12, 1, None)
        assert how.channels == (3 if recipe.colour else 1)
        pixels = torch.zeros(2, how.channels, how.side, how.side, dtype=torch.uint8)
        assert recipe.prepare(pixels, 12, None).shape == (2, how.channels, 12, 12)
        if recipe.crop or recipe.distort:
            x = recipe.prepare(pixels, 12, made(0, 2, augment.NUMBERS_PER_PICTURE).float())
            assert x.shape == (2, how.channels, 12, 12) and x.dtype == torch.float32


@pytest.mark.parametrize(
    ("recipe", "ink", "inverts"),
    [
        ("finn", "dark", True),
        ("finn", "light", False),
        ("finn", None, False),
        ("closerlook", "light", True),
        ("closerlook", "dark", False),
        ("closerlook", None, False),
        ("none", "dark", False),
        ("none", "light", False),
        ("metaoptnet", "dark", False),
    ],
)
def test_ink_is_inverted_only_where_the_recipe_wants_the_other(recipe, ink, inverts):
    assert preparation_named(recipe).decoding(8, 1, ink).invert == inverts


def test_recipes_are_stored_as_the_papers_say():
    assert preparation_named("finn").decoding(28, 1, "dark").resample == "lanczos"
    assert preparation_named("closerlook").decoding(84, 3, None).side == 96
    assert preparation_named("metaoptnet").decoding(84, 3, None).side == 84


def test_finn_and_none_are_bytes_over_255():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    for name in ("finn", "none"):
        assert torch.equal(preparation_named(name).prepare(pixels, 16, None), pixels.float() / 255)


def test_closerlook_evaluates_on_the_very_centre_standardised():
    pixels = (made(1, 2, 3, 96, 96) * 255).byte()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    centre = pixels[:, :, 6:90, 6:90].float() / 255
    expected = (centre - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(preparation_named("closerlook").prepare(pixels, 84, None), expected)


def test_metaoptnet_evaluates_on_the_whole_picture_standardised():
    pixels = torch.tensor([120, 115, 104], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(1, 3, 10, 10)
    x = preparation_named("metaoptnet").prepare(pixels, 10, None)
    expected = [(120 - 120.396) / 70.682, (115 - 115.594) / 68.276, (104 - 104.540) / 72.545]
    torch.testing.assert_close(x[0, :, 3, 7], torch.tensor(expected), atol=1e-6, rtol=1e-4)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(InputError, match="no recipe 'fin'. Did you mean `finn`"):
        preparation_named("fin")


# -- augmentation --

FUNCTIONS = {
    "resized": lambda x, noise: augment.crop_and_resize(x, 6, noise),
    "padded": lambda x, noise: augment.pad_and_crop(x, 9, 3, noise),
    "flipped": augment.flip,
    "jittered": lambda x, noise: augment.jitter(x, 0.4, noise),
    "distorted": lambda x, noise: augment.distort(x, 1.0, noise),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_depends_on_its_own_noise_alone(name, channels):
    change, x, noise = FUNCTIONS[name], made(2, 5, channels, 9, 9), made(3, 5, augment.NUMBERS_PER_PICTURE)
    together = change(x, noise)
    for i in range(5):
        torch.testing.assert_close(change(x[i : i + 1], noise[i : i + 1])[0], together[i], atol=1e-12, rtol=0)
        others = torch.arange(5) != i
        x2, noise2 = x.clone(), noise.clone()
        x2[others], noise2[others] = made(4, 4, channels, 9, 9), made(5, 4, augment.NUMBERS_PER_PICTURE)
        assert torch.equal(change(x2, noise2)[i], together[i])


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("extreme", [2.0**-54, 1 - 2.0**-24, 1.0])
@pytest.mark.parametrize("side", [9, 12])
def test_extreme_noise_gives_pictures_in_range(name, extreme, side):
    """In single precision a number below 1 may round to 1."""
    noise = torch.full((2, augment.NUMBERS_PER_PICTURE), extreme, dtype=torch.float32)
    x = FUNCTIONS[name](made(6, 2, 3, side, side).float(), noise)
    assert torch.isfinite(x).all() and x.min() >= 0 and x.max() <= 1


def test_values_stay_between_0_and_1():
    x, noise = made(7, 500, 3, 9, 9), made(8, 500, augment.NUMBERS_PER_PICTURE)
    for change in FUNCTIONS.values():
        changed = change(x, noise)
        assert changed.min() >= -1e-12 and changed.max() <= 1 + 1e-12


def test_there_is_noise_that_changes_nothing():
    x = made(9, 2, 3, 9, 9)
    for name in ("padded", "flipped", "jittered", "distorted"):
        torch.testing.assert_close(FUNCTIONS[name](x, numbers(2)), x, atol=1e-12, rtol=0)
    torch.testing.assert_close(augment.crop_and_resize(x, 9, numbers(2, AREA=1.0)), x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("side", [10, 12])
def test_padded_crops_are_the_windows_of_the_padded_picture(side):
    """Every offset is tried, also for pictures that are larger than the output."""
    x, by, size = made(10, 1, 3, side, side), 2, 10
    wide = np.pad(x[0].numpy(), ((0, 0), (by, by), (by, by)))
    span = side + 2 * by - size + 1
    for top in range(span):
        for left in range(span):
            cut = augment.pad_and_crop(x, size, by, numbers(TOP=(top + 0.5) / span, LEFT=(left + 0.5) / span))
            assert np.array_equal(cut[0].numpy(), wide[:, top : top + size, left : left + size])


@pytest.mark.parametrize(("top", "left"), [(0, 0), (0, 4), (4, 0), (4, 4), (2, 1)])
def test_a_resized_part_is_where_the_noise_says(top, left):
    """A part with a quarter of the area, scaled to half the side: samples fall on pixels, so the part is a slice."""
    x = made(11, 1, 3, 8, 8)
    part = augment.crop_and_resize(x, 4, numbers(AREA=(0.25 - 0.08) / 0.92, LEFT=left / 4, TOP=top / 4))
    torch.testing.assert_close(part, x[:, :, top : top + 4, left : left + 4], atol=1e-12, rtol=0)


def test_a_resized_part_is_stretched_by_its_ratio():
    """On a ramp from left to right, the first and last column differ by the width of the part; so for the height."""
    ramp = ((torch.arange(64) + 0.5) / 64).double()
    for noise, width, height in (
        (numbers(AREA=0.0, RATIO=1.0), math.sqrt(0.08 * 4 / 3), math.sqrt(0.08 * 3 / 4)),
        (numbers(AREA=0.0, RATIO=0.0), math.sqrt(0.08 * 3 / 4), math.sqrt(0.08 * 4 / 3)),
        (numbers(AREA=0.5, RATIO=0.5), math.sqrt(0.54), math.sqrt(0.54)),
    ):
        across = augment.crop_and_resize(ramp.expand(1, 1, 64, 64), 16, noise)[0, 0]
        down = augment.crop_and_resize(ramp[:, None].expand(1, 1, 64, 64), 16, noise)[0, 0]
        assert (across[0, -1] - across[0, 0]).item() == pytest.approx(width * 15 / 16)
        assert (down[-1, 0] - down[0, 0]).item() == pytest.approx(height * 15 / 16)
        assert across.mean().item() == down.mean().item() == pytest.approx(0.5), "noise of one half is the middle"


def test_half_of_the_pictures_are_mirrored():
    noise = made(12, 10_000, augment.NUMBERS_PER_PICTURE)
    x = torch.tensor([[0.0, 1.0]]).expand(10_000, 1, 1, 2)
    mirrored = augment.flip(x, noise)[:, 0, 0, 0] == 1
    assert abs(mirrored.double().mean().item() - 0.5) < 4 * 0.5 / 100
    assert torch.equal(mirrored, noise[:, FLIP] < 0.5)


def test_brightness_contrast_and_saturation_are_what_their_names_say():
    x = made(13, 1, 3, 4, 4) / 2
    luma = (x * torch.tensor(augment.LUMA_WEIGHTS)[:, None, None]).sum(1, keepdim=True)

    def changed(**columns):
        return augment.jitter(x, 1.0, numbers(**columns))

    torch.testing.assert_close(changed(BRIGHTNESS=0.25), x / 2)
    torch.testing.assert_close(changed(BRIGHTNESS=1.0), x * 2)
    assert not changed(BRIGHTNESS=0.0).any()
    torch.testing.assert_close(changed(CONTRAST=0.0), luma.mean().expand(x.shape))
    torch.testing.assert_close(changed(CONTRAST=0.25), (x + luma.mean()) / 2)
    torch.testing.assert_close(changed(SATURATION=0.0), luma.expand(x.shape))
    torch.testing.assert_close(changed(SATURATION=0.25), (x + luma) / 2)
    grey = made(14, 1, 1, 4, 4)
    torch.testing.assert_close(augment.jitter(grey, 1.0, numbers(SATURATION=0.0)), grey)


# -- families --

CLASSES, EACH = 15, 8


def family(recipe="none", size=6, channels=1, by="class", digest="0" * 12, pixels=None, **options) -> ImageEpisodes:
    """Random pictures of 15 classes with 8 each."""
    how = preparation_named(recipe).decoding(size, channels, None)
    labels = np.repeat(np.arange(CLASSES), EACH)
    if pixels is None:
        drawn = Draws(0, "train", 0).uniform("pixels", len(labels), how.channels, how.side, how.side)
        pixels = (256 * drawn).astype(np.uint8)
    split = {"class": split_by_class, "image": split_by_image}[by](labels, (0.4, 0.3, 0.3), 0)
    fields = {"ways": 3, "shots": 1, "queries": 1, "name": "made", "names": [f"class {n}" for n in range(CLASSES)]}
    return ImageEpisodes(
        pixels, labels, split, **fields | options, recipe=preparation_named(recipe), size=size, digest=digest
    )


def by_class(task, *values) -> torch.Tensor:
    """Values of the support and the query examples, `[T, ways, shots + queries, ...]`."""
    rows, ways = torch.arange(len(task.key))[:, None], task.about["classes"].shape[1]
    orders = [half.y.argsort(dim=1, stable=True) for half in (task.support, task.query)]
    return torch.cat([v[rows, order].unflatten(1, (ways, -1)) for v, order in zip(values, orders, strict=True)], 2)


def places(task) -> torch.Tensor:
    """The indices of the pictures in a batch, `[T, ways, shots + queries]`."""
    return by_class(task, task.about["images_support"], task.about["images_query"])


def pictures(task) -> torch.Tensor:
    """The pictures of a batch in the same order, `[T, ways, shots + queries, *input]`."""
    return by_class(task, task.support.x, task.query.x)


@pytest.mark.parametrize(
    ("columns", "matrix"),
    [
        (
            {"TURN": 1.0},
            [[math.cos(math.pi / 18), -math.sin(math.pi / 18)], [math.sin(math.pi / 18), math.cos(math.pi / 18)]],
        ),
        ({"SLANT": 1.0}, [[1.0, 0.15], [0.0, 1.0]]),
        ({"WIDTH": 1.0}, [[1.28**0.5, 0.0], [0.0, 1.0]]),
        ({"HEIGHT": 0.0}, [[1.0, 0.0], [0.0, 1.28**-0.5]]),
        # Scaled and slanted, then turned by half of the largest angle.
        (
            {"TURN": 0.75, "SLANT": 0.0, "WIDTH": 1.0, "HEIGHT": 0.0},
            (
                np.array(
                    [
                        [math.cos(math.pi / 36), -math.sin(math.pi / 36)],
                        [math.sin(math.pi / 36), math.cos(math.pi / 36)],
                    ]
                )
                @ [[1.28**0.5, -0.15], [0.0, 1.28**-0.5]]
            ).tolist(),
        ),
    ],
    ids=["turned", "slanted", "scaled", "scaled down", "all of it"],
)
def test_a_drawing_is_read_at_the_places_of_the_matrix(columns, matrix):
    """A ramp stays a ramp: its value at a place, counted from the middle, is that of the place that is read there."""
    side, half = 41, 20
    inner = slice(half - 8, half + 9)
    y, x = torch.meshgrid(*[torch.arange(side, dtype=torch.float64) - half] * 2, indexing="ij")
    for ramp, row in ((x, 0), (y, 1)):
        found = augment.distort(ramp[None, None] / 100 + 0.5, 0.5, numbers(**columns))[0, 0]
        expected = (matrix[row][0] * x + matrix[row][1] * y) / 100 + 0.5
        torch.testing.assert_close(found[inner, inner], expected[inner, inner], atol=1e-12, rtol=0)


def test_a_drawing_is_shifted_by_a_part_of_its_side_and_paper_comes_in():
    dot = torch.zeros(1, 1, 20, 20, dtype=torch.float64)
    dot[0, 0, 10, 10] = 1.0
    shifted = augment.distort(dot, 2 / 3, numbers(RIGHT=1.0, DOWN=0.0))  # a 20th of the side is one pixel
    assert shifted[0, 0, 11, 9] == pytest.approx(1.0) and shifted.sum() == pytest.approx(1.0)
    grey = torch.full((1, 1, 20, 20), 0.25, dtype=torch.float64)
    grey[0, 0, 5:8] = 1.0  # a line on grey paper, whose end comes in
    moved = augment.distort(grey, 2 / 3, numbers(RIGHT=1.0))
    assert (moved[0, 0, 5:8, :-1] - 1).abs().max() < 1e-9 and (moved[..., -1] - 0.25).abs().max() < 1e-9
    assert (moved[0, 0, :5] - 0.25).abs().max() < 1e-9


def test_a_drawing_that_is_stored_larger_is_distorted_at_the_size_of_the_inputs():
    pixels = (made(20, 2, 1, 16, 16) * 255).byte()
    middle = pixels[..., 2:14, 2:14]
    noise = made(21, 2, augment.NUMBERS_PER_PICTURE).float()
    recipe = preparation_named("distorted")
    assert torch.equal(recipe.prepare(pixels, 12, noise), recipe.prepare(middle, 12, noise))


EVERY = [
    {"recipe": recipe, "rotations": rotations, "channels": channels}
    for recipe in PREPARATIONS
    for rotations in ROTATIONS
    for channels in (1, 3)
]
IDS = [f"{e['recipe']}-{e['rotations']}-{e['channels']}" for e in EVERY]


@pytest.mark.parametrize("given", EVERY, ids=IDS)
def test_shapes_parts_and_repetition(given):
    data = family(**given, shots=2, queries=3)
    channels = 3 if data.recipe.colour else given["channels"]
    assert data.inputs == (channels, 6, 6) and data.outputs == 3
    source = data.source("train", seed=1, size=4)
    whole = source(5)
    assert whole.support.x.shape == (4, 6, channels, 6, 6) and whole.query.x.shape == (4, 9, channels, 6, 6)
    assert whole.support.x.dtype == torch.float32 and sorted(whole.support.y[0].tolist()) == [0, 0, 1, 1, 2, 2]
    for part in (slice(0, 1), slice(2, 4), slice(3, None), slice(None, None, 2)):
        own, cut = source(5, part), pick(whole, part)
        for one, other in ((own.support, cut.support), (own.query, cut.query)):
            torch.testing.assert_close(one.x, other.x, atol=1e-5, rtol=0)
            assert torch.equal(one.y, other.y)
        assert torch.equal(places(own), places(cut)) and torch.equal(own.key, cut.key)
    again = family(**given, shots=2, queries=3).source("train", seed=1, size=4)(5)
    assert torch.equal(again.support.x, whole.support.x) and torch.equal(again.query.x, whole.query.x)
    for other in (data.source("train", seed=2, size=4)(5), source(6), data.source("val", seed=1, size=4)(5)):
        assert not torch.equal(places(other), places(whole))


@pytest.mark.parametrize("recipe", ["closerlook", "metaoptnet", "distorted"])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("drawing", [False, True])
def test_photographs_are_augmented_in_training_only_and_drawings_by_the_recipe_for_them(recipe, split, drawing):
    data = family(recipe, channels=3, drawing=drawing, queries=4)
    task = data.source(split, seed=0, size=3)(0)
    plain = data.recipe.prepare(torch.from_numpy(data.images[places(task)]).flatten(0, 2), 6, None)
    same = (pictures(task).flatten(0, 2) == plain).flatten(1).all(1)
    is_for_these = drawing == (recipe == "distorted")
    assert not same.any() if is_for_these and split == "train" else same.all()


def over(data, wrap):
    """The few-shot tasks themselves, or another family made from them."""
    return {"alone": data, "cross": Cross(train=data, test=data), "batches": Batches(data, size=8)}[wrap]


@pytest.mark.parametrize("recipe", ["closerlook", "metaoptnet"])
@pytest.mark.parametrize("wrap", ["alone", "cross", "batches"])
def test_an_evaluation_shows_the_training_pictures_as_they_are(recipe, wrap):
    data = family(recipe, channels=3, queries=4)
    source = over(data, wrap).source("train", seed=0, size=3)
    trained, shown = source(1), source.without_augmentation()(1)
    assert torch.equal(shown.key, trained.key) and torch.equal(shown.query.y, trained.query.y)
    for half in ("support", "query"):
        numbers, x = shown.about[f"images_{half}"], getattr(shown, half).x
        assert torch.equal(numbers, trained.about[f"images_{half}"])
        plain = data.recipe.prepare(torch.from_numpy(data.images[numbers]).flatten(0, 1), 6, None)
        assert torch.equal(x.flatten(0, 1), plain)
        assert not torch.equal(getattr(trained, half).x.flatten(0, 1), plain)
        assert torch.equal(getattr(source.without_augmentation()(1, slice(1, 2)), half).x, x[1:2])


@pytest.mark.parametrize("wrap", ["alone", "cross", "batches"])
def test_the_tasks_that_are_judged_are_not_augmented(wrap):
    data = family("closerlook", channels=3, queries=4)
    (tasks,) = task_batches(over(data, wrap), "train", 3, 0)
    plain = data.recipe.prepare(torch.from_numpy(data.images[tasks.about["images_query"]]).flatten(0, 1), 6, None)
    assert torch.equal(tasks.query.x.flatten(0, 1), plain)


def test_the_same_picture_is_augmented_otherwise_the_next_time():
    data = family("closerlook", channels=3, ways=2, pixels=np.tile(made(16, 6, 6).mul(255).byte(), (120, 3, 1, 1)))
    seen = pictures(data.source("train", seed=0, size=4)(0)).flatten(0, 2).flatten(1)
    assert len(seen.unique(dim=0)) == len(seen) == 16


@pytest.mark.parametrize(
    ("rotations", "copies", "ways", "classes", "count"),
    [
        ("classes", 4, 20, {"train": 24, "val": 20, "test": 16}, 10),
        ("mirrored", 8, 40, {"train": 48, "val": 40, "test": 32}, 6),
    ],
)
def test_turned_classes_are_so_many_times_as_many_and_hold_turned_pictures(rotations, copies, ways, classes, count):
    data = family(rotations=rotations, queries=4, ways=ways)
    assert data.describe()["classes"] == classes
    task = data.source("train", seed=0, size=count)(0)
    labels = task.about["classes"]
    assert all(len(set(row)) == ways for row in labels.tolist())
    assert set((labels % copies).flatten().tolist()) == set(range(copies))
    for t in range(count):
        for way in range(ways):
            label = labels[t, way].item()
            for number, shown in zip(places(task)[t, way].tolist(), pictures(task)[t, way], strict=True):
                assert number // EACH == label // copies
                picture = data.images[number] / np.float32(255)
                picture = picture[:, :, ::-1] if label % copies >= 4 else picture
                assert np.array_equal(shown.numpy(), np.rot90(picture, label % 4, (1, 2)))
    assert data.class_name(copies * 7 + 3) == "class 7 at 270 degrees"
    assert family().class_name(7) == "class 7"


def test_a_mirrored_class_is_called_so():
    assert family(rotations="mirrored").class_name(8 * 7 + 5) == "class 7 mirrored at 90 degrees"


def test_turning_leaves_what_it_is_given_as_it_was():
    pixels = (made(18, 2, 3, 1, 1, 4, 4) * 255).byte()
    before = pixels.clone()
    assert not torch.equal(rotate_classes(pixels, np.ones((2, 3), np.int64)), before)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("split", SPLITS)
def test_a_task_may_turn_each_class_its_support_and_query_alike(split):
    data = family(rotations="augment", shots=2, queries=3)
    task, turns = data.source(split, seed=0, size=400)(0), []
    for numbers_of_class, shown in zip(places(task).flatten(0, 1), pictures(task).flatten(0, 1), strict=True):
        raw = data.images[numbers_of_class] / np.float32(255)
        alike = [turn for turn in range(4) if np.array_equal(np.rot90(raw, turn, (2, 3)), shown.numpy())]
        assert len(alike) == 1
        turns += alike
    counts = np.bincount(turns)
    assert counts.sum() == 1200 and np.abs(counts - 300).max() < 4 * math.sqrt(1200 * 3 / 16)


PINNED = {
    "none": ("25562f72026e7284", "4971b71d3a2c20f0"),
    "classes": ("c7fefac943da0f2f", "d3fd9253d1ef489b"),
    "augment": ("25562f72026e7284", "39dd309dc3c5f968"),
    "omniglot": "90c95f335c3f2894",
}
"""Old results belong to these tasks. Another hash means other tasks, which needs a line in the changelog."""


def drawn(tasks) -> str:
    """A hash of the drawn pictures and classes and of the keys."""
    digest = hashlib.sha256()
    for task in tasks:
        for value in (task.key, *(task.about[name] for name in sorted(task.about))):
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("rotations", ["none", "classes", "augment"])
def test_tasks_are_the_ones_that_earlier_versions_drew(rotations):
    tasks = list(task_batches(family(rotations=rotations), "test", 120, 0))
    shown = b"".join(pictures(task).mul(255).round().byte().numpy().tobytes() for task in tasks)
    assert (drawn(tasks), hashlib.sha256(shown).hexdigest()[:16]) == PINNED[rotations]


def test_which_pictures_are_drawn_does_not_depend_on_the_recipe():
    assert drawn(task_batches(family("closerlook", channels=3), "train", 60, 0)) == drawn(
        task_batches(family(), "train", 60, 0)
    )


def test_the_fingerprint_tells_data_recipe_size_rotations_and_splits_apart():
    pixels = (made(17, CLASSES * EACH, 3, 6, 6) * 255).byte().numpy()
    kinds = [
        family(),
        family(digest="1" * 12),
        family("finn"),
        family(size=5, pixels=pixels),
        family(rotations="classes"),
        family(rotations="augment"),
        family(rotations="mirrored"),
        family("distorted", drawing=True),
        family(by="image"),
        family("metaoptnet", channels=3),
        family("metaoptnet", channels=3, drawing=True),
    ]
    marks = [data.fingerprint for data in kinds]
    assert len(set(marks)) == len(marks) and all(len(mark) == 12 for mark in marks)
    assert family().fingerprint == marks[0] and family().describe()["data"] == marks[0]
    assert family(ways=2, queries=4).fingerprint == marks[0], "the data are the same, however they are asked about"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rotations": "all"}, "rotations='all' .* none, classes, mirrored, augment"),
        ({"pixels": np.zeros((CLASSES * EACH, 1, 6, 6), np.float32)}, "type float32 .* give bytes"),
        ({"pixels": np.zeros((CLASSES * EACH, 6, 6), np.uint8)}, r"shape \[120, 6, 6\] .* give bytes"),
        ({"pixels": np.zeros((CLASSES * EACH, 1, 5, 5), np.uint8)}, "cannot be shown at size 6"),
        ({"ways": 1}, "ways=1 .* at least 2"),
    ],
)
def test_families_that_cannot_be_made_are_refused(given, words):
    with pytest.raises(InputError, match=words):
        family(**given)


def test_too_few_pictures_name_the_class():
    with pytest.raises(InputError, match="class 'class [0-9]+' of 'train' has 8"):
        family(queries=8).source("train", size=1)


# -- sets --


def files(root: Path, counts: dict[str, int], size: int = 8) -> Path:
    """Class folders with these numbers of pictures, all different."""
    rng = np.random.default_rng(len(counts))
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            values = rng.integers(0, 256, (size, size), dtype=np.uint8)
            Image.fromarray(values).save(root / name / f"{number:02d}.png")
    return root


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


SHAPES = ImageSet("shapes", ("shapes", "other_shapes"), 3, 30, "shapes", size=8, inks={"other_shapes": "dark"})
COUNTS = {"disc": 10, "ring": 10, "star": 10}


def test_a_set_is_found_under_the_data_root_and_given_as_tasks(root):
    files(root / "shapes", COUNTS)
    data = SHAPES()
    assert data.name == "shapes" and data.inputs == (1, 8, 8) and data.names == ["disc", "ring", "star"]
    assert data.describe()["classes"] == {"train": 3, "val": 3, "test": 3}
    assert data.describe()["images"] == {"train": 18, "val": 6, "test": 6}
    assert data.describe()["split_rule"] == "by image (classes shared), train/val/test 0.6/0.2/0.2, seed 0"
    task = SHAPES(ways=3, queries=1).source("test", size=2)(0)
    assert task.query.x.shape == (2, 3, 1, 8, 8)


def test_what_stands_in_for_a_set_is_called_so(root):
    files(root / "other_shapes", {"disc": 10, "ring": 10})
    assert SHAPES().name == "other_shapes in place of shapes"
    files(root / "shapes", COUNTS | {"ring": 9})
    assert SHAPES().name == "shapes with 3 classes and 29 images instead of 3 and 30"
    elsewhere = files(root / "elsewhere", COUNTS)
    assert SHAPES(path=str(elsewhere)).name == "shapes", "as many classes and pictures as the published set"


def test_ink_is_the_folders_own(root):
    plain, dark = (files(root / name, COUNTS) for name in ("shapes", "other_shapes"))
    assert np.array_equal(SHAPES(path=str(plain)).images, 255 - SHAPES(path=str(dark)).images)


def test_a_missing_set_says_where_it_was_looked_for_and_how_to_get_it(root):
    with pytest.raises(InputError) as error:
        IMAGE_SETS["cub"]()
    for part in (str(root), "CUB_200_2011", "quickstudy data prepare cub", "QUICKSTUDY_DATA", "--tasks.path"):
        assert part in str(error.value)
    with pytest.raises(InputError, match="There is no .*/nowhere, which was given as the folder of 'cub'"):
        IMAGE_SETS["cub"](path=str(root / "nowhere"))


@pytest.mark.skipif(sys.platform != "linux", reason="the folders of Linux; platformdirs knows those of other systems")
def test_the_data_root_is_where_the_settings_say(monkeypatch, tmp_path):
    """The folders of Linux are written out here: they may never change, or users would lose their data."""
    assert data_root() == tmp_path / "data"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QUICKSTUDY_DATA", "~/own")
    assert data_root() == tmp_path / "home" / "own"
    monkeypatch.setenv("QUICKSTUDY_DATA", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert data_root() == tmp_path / "xdg" / "quickstudy"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert data_root() == tmp_path / "home" / ".local" / "share" / "quickstudy"


def test_sets_are_called_with_their_own_defaults():
    for name, image_set in IMAGE_SETS.items():
        assert FAMILIES[name] is image_set
        defaults = {key: value.default for key, value in image_set.__signature__.parameters.items()}
        assert (defaults["split"], defaults["size"], defaults["recipe"]) == (
            image_set.split,
            image_set.size,
            image_set.recipe,
        )


def test_cifar_100_may_be_divided_by_superclass_too(root):
    classes = [name for members in published_split("fc100", "oreshkin").classes.values() for name in members]
    files(root / "cifar100", dict.fromkeys(classes, 2))
    data = IMAGE_SETS["fc100"](queries=1)
    assert data.describe()["classes"] == {"train": 60, "val": 20, "test": 20}
    assert {data.class_name(n) for n in data.labels[data.splits["test"]].tolist()} == set(
        published_split("fc100", "oreshkin").classes["test"]
    )


def test_all_of_mini_imagenet_may_be_trained_on(root):
    classes = [name for members in published_split("mini_imagenet", "ravi").classes.values() for name in members]
    files(root / "mini_imagenet", dict.fromkeys(classes, 2))
    assert IMAGE_SETS["mini_imagenet"](split="all", queries=1).describe()["classes"] == {"train": 100}


def test_classes_may_be_chosen(root):
    files(root / "shapes", COUNTS)
    data = SHAPES(only=["ring", "disc"], ways=2, queries=1)
    assert data.describe()["classes"] == {"train": 2, "val": 2, "test": 2}
    assert data.rule.endswith("seed 0, of 2 classes")
    labels = data.source("train", size=50)(0).about["classes"]
    assert set(labels.flatten().tolist()) == {0, 1}
    with pytest.raises(InputError, match="`only` names class 'rings'. Did you mean `ring`"):
        SHAPES(only=["rings"])


def test_splits_by_image_by_class_and_by_layout(root):
    files(root / "shapes", {f"class {n}": 6 for n in range(10)})
    by_image, by_class = (SHAPES(split=split, ways=2, queries=1) for split in ("image", "class"))
    assert by_image.describe()["classes"] == {"train": 10, "val": 10, "test": 10}
    assert by_class.describe()["classes"] == {"train": 6, "val": 2, "test": 2}
    assert by_class.rule.startswith("by class (classes disjoint)")
    assert by_class.fingerprint != SHAPES(split="class", seed=1, ways=2, queries=1).fingerprint
    with pytest.raises(InputError, match="'shapes' .* not divided into train, val and test"):
        SHAPES(split="layout")
    for split, names in (("train", "abc"), ("test", "de")):
        files(root / "other_shapes" / split, dict.fromkeys(names, 4))
    laid_out = SHAPES(split="layout", path=str(root / "other_shapes"), ways=2, queries=1)
    assert laid_out.describe()["classes"] == {"train": 3, "test": 2} and laid_out.rule == "as laid out"
    some = SHAPES(split="layout", path=str(root / "other_shapes"), only=["a", "b"])
    assert some.describe()["classes"] == {"train": 2}


def test_unknown_splits_and_recipes_name_the_nearest(root):
    files(root / "shapes", COUNTS)
    with pytest.raises(
        InputError, match="'shapes' has no split 'clas'. Did you mean `class`. Known: class, image, lay"
    ):
        SHAPES(split="clas")
    with pytest.raises(InputError, match="no recipe 'closer'.* Did you mean `closerlook`"):
        SHAPES(recipe="closer")
    files(root / "omniglot", COUNTS)
    with pytest.raises(InputError, match="'omniglot' has no split 'vinyal'. Did you mean `vinyals`"):
        IMAGE_SETS["omniglot"](split="vinyal")


def test_pictures_that_are_left_out_are_a_warning_and_a_note(root):
    files(root / "shapes", COUNTS)
    for number in range(4):
        (root / "shapes" / "disc" / f"0{number}.png").write_text("broken")
    said = r"4 left out: disc/00.png \(.*\); disc/01.png \(.*\); disc/02.png \(.*\); and 1 more"
    with pytest.warns(LeftOutWarning, match=said):
        data = SHAPES()
    assert any(note.startswith("4 left out") for note in data.notes)
    assert data.name == "shapes with 3 classes and 26 images instead of 3 and 30"


# -- your own folders --


def test_few_classes_are_divided_by_image_with_ways_and_queries_to_fit(root):
    data = image_folder(str(files(root / "mine", {"cat": 12, "dog": 12, "owl": 20})), size=8)
    assert data.rule.startswith("by image") and data.name == "mine" and data.inputs == (3, 8, 8)
    assert (data.ways, data.shots, data.queries) == (3, 1, 1), "the test split has two cats"
    for split in SPLITS:
        assert data.source(split, size=2)(0).query.x.shape == (2, 3, 3, 8, 8)
    assert any("grey made colour" in note for note in data.notes)


def test_many_classes_are_divided_by_class(root):
    mine = files(root / "mine", {f"class {n:02d}": 3 for n in range(25)})
    data = image_folder(str(mine), size=8, channels=1)
    assert data.rule.startswith("by class") and (data.ways, data.queries) == (5, 2) and data.inputs == (1, 8, 8)
    assert data.describe()["classes"] == {"train": 15, "val": 5, "test": 5}
    assert image_folder(str(mine), size=8, ways=6, split="class", queries=1).ways == 6
    few = image_folder(str(mine), size=8, ways=2, only=[f"class {n:02d}" for n in range(10)])
    assert few.describe()["classes"] == {"train": 6, "val": 2, "test": 2}


def test_split_folders_are_taken_as_they_are(root):
    for split, names in (("train", "abcdef"), ("val", "gh"), ("test", "ijk")):
        files(root / "mine" / split, dict.fromkeys(names, 4))
    data = image_folder(str(root / "mine"), size=8)
    assert data.rule == "as laid out" and (data.ways, data.queries) == (2, 3)
    assert data.describe()["classes"] == {"train": 6, "val": 2, "test": 3}


def test_class_names_may_be_of_any_script(root):
    names = ["Ørn", "кот", "犬", "ねこ"]
    data = image_folder(str(files(root / "тест", dict.fromkeys(names, 10))), size=8)
    assert data.name == "тест" and data.names == sorted(names) and data.class_name(0) == "Ørn"
    assert data.source("train", size=2)(0).support.x.shape == (2, 4, 3, 8, 8)


def test_a_class_with_one_picture_is_named(root):
    mine = str(files(root / "mine", {"cat": 1, "dog": 12, "owl": 12}))
    with pytest.raises(
        InputError, match="Class 'cat' has 1 pictures, 1 of them in 'train' .split 'image'.; 1-shot needs"
    ):
        image_folder(mine, size=8)
    assert image_folder(mine, size=8, only=["dog", "owl"]).ways == 2


@pytest.mark.parametrize(("rotations", "ways"), [("classes", 4), ("mirrored", 5)])
def test_a_turned_class_is_a_class_of_its_own_where_tasks_are_sized(root, rotations, ways):
    mine = str(files(root / "mine", dict.fromkeys("abcde", 12)))
    data = image_folder(mine, size=8, split="class", rotations=rotations)
    assert data.ways == ways and data.source("val", size=1)(0).support.x.shape[1] == ways


@pytest.mark.parametrize(
    ("counts", "options", "words"),
    [
        ({"cat": 12}, {}, "leaves 'train' one class, 'cat': a task needs 2"),
        ({"cat": 12, "dog": 12}, {"split": "class"}, "leaves '(train|val|test)' one class, '(cat|dog)'"),
        ({"cat": 12, "dog": 12}, {"shots": 0}, "shots=0 .* at least 1"),
        ({"cat": 12, "dog": 12}, {"queries": 0}, "queries=0 .* at least 1"),
        ({"cat": 12, "dog": 12}, {"ways": 0}, "ways=0 .* at least 2"),
        (
            {"cat": 12, "dog": 12},
            {"shots": 2},
            "Class '(cat|dog)' has 12 pictures, 2 of them in 'test'.* 2-shot needs 3",
        ),
        ({"cat": 12, "dog": 12}, {"split": "by image"}, "'mine' has no split 'by image'. Did you mean `image`"),
        ({"cat": 12, "dog": 12}, {"ink": "blue"}, "ink='blue' .* 'dark' or 'light'"),
        ({"cat": 12, "dog": 12}, {"size": 0}, "size from 1 to 1024"),
    ],
)
def test_folders_that_give_no_tasks_say_why(root, counts, options, words):
    with pytest.raises(InputError, match=words):
        image_folder(str(files(root / "mine", counts)), **{"size": 8} | options)


def test_a_folder_that_is_not_there_is_named(root):
    with pytest.raises(InputError, match="There is no folder or file '.*/mine'"):
        image_folder(str(root / "mine"))


def test_pictures_are_cropped_by_default_and_stretched_on_request(root):
    """A wide picture whose middle square is white: what is left of it, and what becomes of its shape."""
    values = np.zeros((8, 24), np.uint8)
    values[:, 8:16] = 255
    for name in ("a", "b"):
        (root / "mine" / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(values).save(root / "mine" / name / f"{number}.png")
    shown = {}
    for fit in ("crop", "stretch"):
        data = image_folder(str(root / "mine"), size=8, channels=1, fit=fit, recipe="none")
        shown[fit] = data.source("train", size=1)(0).support.x[0, 0, 0]
    assert (shown["crop"] == 1).all()
    assert (shown["stretch"][:, 0] == 0).all() and (shown["stretch"][:, 4] == 1).all()
    assert torch.equal(
        image_folder(str(root / "mine"), size=8).source("train", size=1)(0).support.x[0, 0], torch.ones(3, 8, 8)
    )
    with pytest.raises(InputError, match="fit='pad' cannot be used: give 'stretch' or 'crop'"):
        image_folder(str(root / "mine"), fit="pad")


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_a_picture_that_is_given_later_is_fitted_as_those_of_training(root, fit):
    values = np.random.default_rng(0).integers(0, 256, (8, 24, 3), dtype=np.uint8)
    for name in ("a", "b"):
        (root / "mine" / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(values).save(root / "mine" / name / f"{number}.png")
    data = image_folder(str(root / "mine"), size=8, fit=fit)
    later = picture_input(data).prepare([root / "mine" / "a" / "3.png"])
    assert torch.equal(later[0], data.source("train", size=1)(0).support.x[0, 0])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_of_one_split_is_divided_and_this_is_said(root, split):
    files(root / "mine" / split, {"cat": 12, "dog": 12})
    data = image_folder(str(root / "mine"), size=8)
    assert data.rule.startswith("by image") and set(data.splits) == set(SPLITS)
    assert f"all pictures are in the split '{split}'; they are divided by image" in data.notes
    assert image_folder(str(root / "mine"), size=8, split="layout").rule == "as laid out", "if that is asked for"


# -- real data --


@pytest.fixture
def few(root, monkeypatch):
    """`few("cub", each=6)` is the set with some real pictures of each class, in the data root of the test."""

    def copied(name: str, each: int, **options):
        place = find_real_set(name)
        listing, taken = listing_of(place), Counter()
        for number, label in enumerate(listing.labels.tolist()):
            if taken[label] < each:
                target = root / place.name / listing.classes[label] / f"{taken[label]}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(listing.pictures, FilePictures):
                    target.symlink_to(listing.pictures.paths[number])
                else:
                    listing.pictures[number].save(target)
                taken[label] += 1
        return IMAGE_SETS[name](size=16, **options)

    return copied


def test_omniglot_tasks_are_the_ones_that_earlier_versions_drew(monkeypatch):
    """The pixels have no effect on which pictures are drawn, so none is decoded here."""
    place = find_real_set("omniglot")
    monkeypatch.setattr(sets, "recognise", lambda path: listing_of(place))
    monkeypatch.setattr(store, "decode", lambda pictures, number, how: (np.zeros((1, 1, 1), np.uint8), set()))
    data, rotated = (
        IMAGE_SETS["omniglot"](size=1, path=str(place), rotations=rotations) for rotations in ("none", "classes")
    )
    assert data.name == "omniglot" and data.describe()["classes"] == {"train": 1100, "val": 100, "test": 423}
    assert drawn(task_batches(data, "test", 600, 0)) == PINNED["omniglot"]
    assert rotated.describe()["classes"]["train"] == 4400


def test_omniglot_is_light_strokes_on_black_in_every_alphabet(root):
    listing = listing_of(find_real_set("omniglot"))
    first = {name.split("/")[0]: label for label, name in reversed(list(enumerate(listing.classes)))}
    for label in first.values():
        target = root / "omniglot" / "images" / listing.classes[label] / "01.png"
        target.parent.mkdir(parents=True)
        listing.pictures[int(np.flatnonzero(listing.labels == label)[0])].save(target)
    images = IMAGE_SETS["omniglot"]().images
    assert len(images) == 50
    assert 0.02 < images.mean() / 255 < 0.2
    for image in images:
        assert image.mean() / 255 < 0.2 and image.max() > 200


@pytest.mark.parametrize(("name", "each"), [("mnist", 30), ("emnist", 6), ("cub", 6), ("mini_imagenet", 6)])
def test_every_real_set_gives_tasks(few, name, each):
    """With fewer pictures than the published set, the name says so."""
    data = few(name, each, queries=5)
    assert len(data.images) == each * len(data.names) and data.name.endswith(
        (f"in place of {name}", f"instead of {IMAGE_SETS[name].classes} and {IMAGE_SETS[name].images}")
    )
    for split in data.describe()["classes"]:
        task = data.source(split, seed=0, size=3)(0)
        assert task.query.x.shape == (3, 25, *data.inputs) and torch.isfinite(task.query.x).all()
        assert len(task.query.x.flatten(0, 1).flatten(1).unique(dim=0)) > 25, "real pictures, not a constant"
    assert IMAGE_SETS[name](size=16).fingerprint == data.fingerprint
