"""Decoding and its cache: known values, every kind of file, kills and full disks."""

import json
import math
import os
import random
import resource
import shutil
import signal
import struct
import sys
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from conftest import copy_of_this_process, wait_for
from quickstudy.errors import InputError, RunError
from quickstudy.tasks.images.decode import Decoding, UnreadablePictureError, decode
from quickstudy.tasks.images.listing import ArrayPictures, FilePictures, Listing
from quickstudy.tasks.images.store import cache_root, load_pictures, source_stamp

GREY, COLOUR = Decoding(4, 1), Decoding(4, 3)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Every test has a cache of its own."""
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Encoded:
    """Pictures as the bytes of files."""

    def __init__(self, *files: bytes):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, number):
        return Image.open(BytesIO(self.files[number]))


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def decoded(picture: Image.Image, how: Decoding, kind: str = "PNG", **options):
    """Save a picture as the bytes of a file and decode them: the pixels and the reported changes."""
    return decode(Encoded(encoded(picture, kind, **options)), 0, how)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# -- decode --


def test_colour_bytes_are_kept_as_they_are():
    rgb = noise(4, 4, 3)
    pixels, said = decoded(Image.fromarray(rgb), COLOUR)
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, rgb.transpose(2, 0, 1)) and said == set()


def test_colour_becomes_grey_by_luma():
    picture = np.zeros((1, 4, 3), np.uint8)
    picture[0, :3] = np.diag([255, 255, 255])
    picture[0, 3] = 255
    pixels, said = decoded(Image.fromarray(picture.repeat(4, 0)), GREY)
    assert pixels[0, 0].tolist() == [round(255 * w) for w in (0.299, 0.587, 0.114, 1)]
    assert said == {"colour made grey"}


@pytest.mark.parametrize("how", [GREY, COLOUR])
def test_one_bit_and_grey_pictures_keep_their_values(how):
    values = noise(4, 4)
    said = {"grey made colour"} if how.channels == 3 else set()
    for picture, expected in (
        (Image.fromarray(values), values),
        (Image.fromarray(values > 127), np.where(values > 127, 255, 0)),
    ):
        pixels, words = decoded(picture, how)
        assert np.array_equal(pixels, np.broadcast_to(expected, pixels.shape)) and words == said


def test_inverted_is_255_minus_the_value():
    values = noise(4, 4)
    assert np.array_equal(decoded(Image.fromarray(values), Decoding(4, 1, invert=True))[0][0], 255 - values)


def over_white(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.round(255 + (values.astype(float) - 255) * alpha / 255)


def test_transparency_is_laid_over_white():
    values, alpha = noise(4, 4, 3), np.array([[0, 85, 170, 255]] * 4, np.uint8)
    rgba = Image.fromarray(np.dstack([values, alpha]))
    pixels, said = decoded(rgba, COLOUR)
    expected = over_white(values, alpha[:, :, None]).transpose(2, 0, 1)
    assert np.abs(pixels - expected).max() <= 1 and said == {"transparency laid over white"}
    assert (pixels[:, :, 0] == 255).all() and np.array_equal(pixels[:, :, 3], values[:, 3].T)
    grey = rgba.convert("LA")
    pixels, said = decoded(grey, GREY)
    luma = np.asarray(grey)[:, :, 0]
    assert np.abs(pixels[0] - over_white(luma, alpha)).max() <= 1 and said == {"transparency laid over white"}
    assert "grey made colour" in decoded(grey, COLOUR)[1]


def test_a_palette_is_looked_up_and_its_transparent_colour_is_white():
    picture = Image.new("P", (4, 4))
    picture.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 200])
    picture.putdata([0, 1, 2, 0] * 4)
    pixels, said = decoded(picture, COLOUR, transparency=1)
    assert pixels[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255], [0, 0, 200], [10, 20, 30]]
    assert said == {"transparency laid over white"}


def test_cmyk_is_read_as_colour():
    red = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    pixels, said = decoded(red, COLOUR, "TIFF")
    assert (pixels[0] == 255).all() and not pixels[1:].any() and said == set()


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "PNG"), ("I", "TIFF")])
def test_sixteen_bits_become_eight(mode, kind):
    values = np.array([[0, 256, 257, 65535]] * 4)
    picture = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.int32))
    assert picture.mode == mode
    pixels, said = decoded(picture, GREY, kind)
    assert pixels[0, 0].tolist() == [0, 0, 1, 255] and said == {"16 bits made 8"}


RANGES = {
    "16 bits": ([0, 257, 65535], [0, 1, 255], "16 bits made 8"),
    "8 of 16 bits": ([0, 100, 255], [0, 100, 255], "values from 0 to 255 made 8 bits"),
    "12 of 16 bits": ([0, 2048, 4000], [0, 127, 249], "values from 0 to 4095 made 8 bits"),
    "a mask": ([0, 1, 1], [0, 255, 255], "values from 0 to 1 made 8 bits"),
    "labels": ([0, 1, 2], [0, 127, 255], "values from 0 to 2 made 8 bits"),
    "heat": ([40_000, 40_250, 40_500], [0, 127, 255], "values from 40000 to 40500 made 8 bits"),
    "one value": ([300, 300, 300], [0, 0, 0], "values from 300 to 300 made 8 bits"),
}


def encoded_rgb16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits for each of 2 to 4 channels, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", *values.shape[1::-1], 16, {2: 4, 3: 2, 4: 6}[values.shape[2]], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("values", RANGES)
@pytest.mark.parametrize(
    ("kind", "dtype"), [("PNG", "u2"), ("TIFF", "u2"), ("TIFF", ">u2"), ("TIFF", "i4"), ("TIFF", "f4")]
)
def test_deep_pictures_are_scaled_by_the_range_that_they_use(values, kind, dtype):
    given, expected, words = RANGES[values]
    pixels, said = decoded(Image.fromarray(np.array([given] * 3).astype(dtype)), Decoding(3, 1), kind)
    assert pixels[0, 0].tolist() == expected and said == {words}


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([-100, 0, 100], "i4", [0, 127, 255]),
        ([0, 10**6, 10**9], "i4", [0, 0, 255]),
        ([0, 0.5, 0.9], "f4", [0, 127, 229]),
        ([-1, 0, 1], "f4", [0, 127, 255]),
    ],
)
def test_signed_large_and_fractional_pictures_are_scaled_too(values, dtype, expected):
    assert decoded(Image.fromarray(np.array([values] * 3, dtype)), Decoding(3, 1), "TIFF")[0][0, 0].tolist() == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_picture_with_nan_is_named_and_has_no_part_in_the_range(bad):
    good, odd = (encoded(Image.fromarray(np.full((4, 4), v, np.float32)), "TIFF") for v in (0.5, bad))
    with pytest.raises(UnreadablePictureError, match="NaN or infinity among its pixels"):
        decode(Encoded(odd, good), 0, GREY)
    assert (decode(Encoded(odd, good), 1, GREY)[0] == 127).all()


def test_one_range_for_the_set_keeps_light_pictures_lighter():
    files = [encoded(Image.fromarray(np.full((4, 4), value, np.uint16))) for value in (0, 100, 200, 1000)]
    assert [int(decode(Encoded(*files), n, GREY)[0].max()) for n in range(4)] == [0, 24, 49, 249]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("top", [255, 4095, 65535])
def test_colours_of_sixteen_bits_keep_their_lower_bytes(channels, top):
    values = np.random.default_rng(0).integers(0, top + 1, (4, 4, channels))
    values[0, 0], values[1, 1] = 0, top
    values[..., 3:] = 65535
    pixels, said = decode(Encoded(encoded_rgb16(values)), 0, COLOUR)
    assert np.array_equal(pixels.transpose(1, 2, 0), (values[..., :3] * 255 / top).astype(np.uint8))
    words = "16 bits made 8" if top == 65535 else f"values from 0 to {top} made 8 bits"
    assert said - {"transparency laid over white"} == {words}


def encoded_tiff16(values: np.ndarray, order: str) -> bytes:
    """An uncompressed TIFF of 16 bits for each channel, in a byte order."""
    height, width, channels = values.shape
    tags = [(256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 2), (277, 3, channels)]
    tags += [(278, 3, height), (279, 4, values.size * 2)]
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    tags[2] = (258, 3, start)
    tags.append((273, 4, start + len(bits)))
    head = b"II*\0" if order == "<" else b"MM\0*"
    fields = b"".join(
        struct.pack(f"{order}HHI", tag, kind, channels if tag == 258 else 1)
        + (struct.pack(f"{order}I", value) if kind == 4 or tag == 258 else struct.pack(f"{order}HH", value, 0))
        for tag, kind, value in sorted(tags)
    )
    directory = struct.pack(f"{order}IH", 8, len(tags)) + fields + bytes(4)
    return head + directory + bits + values.astype(f"{order}u2").tobytes()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("top", [255, 65535])
def test_colours_of_sixteen_bits_in_a_tiff_keep_their_lower_bytes(order, top):
    values = np.random.default_rng(0).integers(0, top + 1, (4, 4, 3))
    values[0, 0], values[1, 1] = 0, top
    pixels, _ = decode(Encoded(encoded_tiff16(values, order)), 0, COLOUR)
    assert np.array_equal(pixels.transpose(1, 2, 0), (values * 255 / top).astype(np.uint8))


def test_grey_with_alpha_of_sixteen_bits_keeps_its_lower_bytes():
    values = np.random.default_rng(0).integers(0, 256, (4, 4, 2))
    values[0, 0], values[1, 1], values[..., 1] = 0, 255, 65535
    assert np.array_equal(decode(Encoded(encoded_rgb16(values)), 0, GREY)[0][0], values[..., 0])


def test_the_clear_grey_of_sixteen_bits_is_white():
    values = np.array([[0, 300, 4095, 4095]] * 4, np.uint16)
    pixels, said = decoded(Image.fromarray(values), GREY, transparency=300)
    assert pixels[0, 0].tolist() == [0, 255, 255, 255]
    assert said == {"transparency laid over white", "values from 0 to 4095 made 8 bits"}


def test_less_common_modes_are_read():
    """Palettes with an alpha for each colour, one bit with a clear one, inks of a printer."""
    palette = Image.new("P", (4, 4))
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putdata([0, 1] * 8)
    pixels, said = decoded(palette, COLOUR, transparency=bytes([255, 0]))
    assert pixels[:, 0, :2].T.tolist() == [[10, 20, 30], [255, 255, 255]] and said == {"transparency laid over white"}
    bits = Image.fromarray(np.array([[True, False] * 2] * 4))
    assert decoded(bits, GREY, transparency=0)[0][0, 0].tolist() == [255] * 4
    ink = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    pixels, _ = decoded(ink, COLOUR, "JPEG", quality=100)
    assert pixels[0].min() > 250 and pixels[1:].max() < 5


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_deep_picture_is_turned_upright_too(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(STORED[orientation]).astype(np.uint16))
    pixels, said = decoded(picture, Decoding(2, 1, "area"), exif=exif)
    assert np.array_equal(pixels[0], UPRIGHT.reshape(2, 2, 2, 3).mean((1, 3)))
    assert said == {"turned upright as its EXIF tag says", "values from 0 to 255 made 8 bits"}


@pytest.mark.parametrize("name", ["EPS", "PCX", "TGA", "ICO", "SGI", "DDS"])
def test_only_listed_formats_are_read_whatever_the_name_is(name, tmp_path):
    data = encoded(Image.new("RGB", (8, 8)), name)
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(UnreadablePictureError, match="not an image that Pillow knows as one of PNG, JPEG"):
        decode(FilePictures([tmp_path / "x.png"]), 0, GREY)


@pytest.mark.parametrize(("width", "height"), [(1, 80_000_000), (80_000_000, 1), (9000, 9000)])
def test_large_pictures_are_refused_and_the_message_says_how_to_raise_the_limit(monkeypatch, width, height):
    class Claimed:
        def __len__(self):
            return 1

        def __getitem__(self, number):
            picture = Image.new("L", (4, 4))
            picture._size = (width, height)
            return picture

    with pytest.raises(UnreadablePictureError, match=f"{width * height} pixels.*_MAX_PIXELS is 64000000"):
        decode(Claimed(), 0, GREY)
    small = Encoded(encoded(Image.fromarray(noise(40, 40, 3))))
    monkeypatch.setenv("QUICKSTUDY_MAX_PIXELS", "3000")
    with pytest.raises(UnreadablePictureError, match="QUICKSTUDY_MAX_PIXELS is 3000"):
        decode(small, 0, GREY)
    monkeypatch.setenv("QUICKSTUDY_MAX_PIXELS", "4000")
    decode(small, 0, GREY)
    monkeypatch.setenv("QUICKSTUDY_MAX_PIXELS", "many")
    with pytest.raises(UnreadablePictureError, match="'many' is no amount"):
        decode(small, 0, GREY)


UPRIGHT = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
# By the EXIF standard: the sides of the upright picture that are the first row and the first column of the file.
STORED = {
    1: UPRIGHT,  # top, left
    2: UPRIGHT[:, ::-1],  # top, right
    3: UPRIGHT[::-1, ::-1],  # bottom, right
    4: UPRIGHT[::-1],  # bottom, left
    5: UPRIGHT.T,  # left, top
    6: UPRIGHT[:, ::-1].T,  # right, top
    7: UPRIGHT[::-1, ::-1].T,  # right, bottom
    8: UPRIGHT[::-1].T,  # left, bottom
}


@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation_gives_the_same_upright_picture(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    pixels, said = decoded(picture, Decoding(2, 1, "area"), exif=exif)
    blocks = UPRIGHT.reshape(2, 2, 2, 3).mean((1, 3))
    assert np.array_equal(pixels[0], blocks)
    assert said == ({"turned upright as its EXIF tag says"} if orientation > 1 else set())


@pytest.mark.parametrize("size", [(30, 10), (10, 30), (11, 30), (30, 30)])
@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_cropping_takes_the_square_in_the_middle(size, keep):
    """A ramp along the longer side: its middle value stays in the middle, and the ends are as far as the square."""
    wide, high = size
    ramp = np.linspace(0, 240, max(size)).round().astype(np.uint8)
    values = np.broadcast_to(ramp if wide >= high else ramp[:, None], (high, wide))
    pixels = Decoding(10, 1, "area", fit="crop", keep=keep).resize(Image.fromarray(np.ascontiguousarray(values)))
    line = np.asarray(pixels)[5] if wide >= high else np.asarray(pixels)[:, 5]
    assert abs(float(line.mean()) - 120) < 6 and (np.diff(line.astype(int)) >= 0).all()
    span = keep * min(size) / max(size) * 240
    assert abs(float(line[-1]) - float(line[0]) - span * 0.9) < 12


def test_a_decoding_that_stretches_has_the_name_that_it_had_before_there_was_a_choice():
    """So what is in a user's cache is found again."""
    assert GREY.key_fields() == {"side": 4, "channels": 1, "resample": "bilinear", "invert": False}
    assert Decoding(4, 1, fit="crop").key_fields() == GREY.key_fields() | {"fit": "crop", "keep": 1.0}


def test_of_an_animation_the_first_frame_is_taken_and_this_is_said():
    frames = [Image.new("L", (4, 4), value) for value in (10, 200, 90)]
    pixels, said = decoded(frames[0], GREY, "GIF", save_all=True, append_images=frames[1:])
    assert (pixels == 10).all() and "only the first frame was taken" in said
    assert "only the first frame was taken" not in decoded(frames[0], GREY, "GIF")[1]


@pytest.mark.parametrize("resample", ["lanczos", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize("side", [1, 3, 7, 20])
def test_a_constant_picture_stays_constant(resample, side):
    picture = Image.new("RGB", (7, 5), (3, 128, 254))
    pixels, _ = decoded(picture, Decoding(side, 3, resample))
    assert pixels.shape == (3, side, side)
    assert np.array_equal(pixels, np.broadcast_to(np.array([3, 128, 254])[:, None, None], pixels.shape))


def test_area_is_the_mean():
    picture = Image.fromarray(np.array([[0, 100], [50, 250]], np.uint8))
    assert decoded(picture, Decoding(1, 1, "area"))[0].item() == 100


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not an image"),
        (b"this is text, whatever its name\n" * 20, "not an image"),
        (encoded(Image.fromarray(noise(40, 40, 3)))[:2000], "truncated"),
        (encoded(Image.fromarray(noise(40, 40, 3)), "JPEG")[:1000], "truncated"),
    ],
    ids=["empty", "text", "png", "jpeg"],
)
def test_damage_is_told_in_a_few_words(data, why):
    with pytest.raises(UnreadablePictureError, match=why) as error:
        decode(Encoded(data), 0, COLOUR)
    assert "0x" not in str(error.value) and "BytesIO" not in str(error.value)


def test_what_the_system_refuses_is_told_without_the_path(tmp_path):
    with pytest.raises(UnreadablePictureError) as error:
        decode(FilePictures([tmp_path / "gone.png"]), 0, GREY)
    assert str(error.value) == "No such file or directory"


@pytest.mark.parametrize("side", [14_000, 60_000])
def test_a_bomb_is_refused_before_it_is_decoded(side):
    """Pillow only warns of 14 000 and refuses 60 000. The file has no such pixels, but its header claims them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as a user may have set it; in these tests a warning is an error
        with pytest.raises(UnreadablePictureError, match=f"Image size .{side**2} pixels. exceeds limit"):
            decode(Encoded(data), 0, GREY)


def decode_or_refuse(data: bytes) -> str | None:
    """Why a file cannot be decoded, or None."""
    try:
        assert decode(Encoded(data), 0, COLOUR)[0].shape == (3, 4, 4)
    except UnreadablePictureError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_whatever_the_damage_it_is_pixels_or_a_reason(kind):
    """A damaged file raises no other error than `UnreadablePictureError`, and no warning."""
    rng, exif = random.Random(0), Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [Image.fromarray(noise(20, 24, 3)[::-1])]} if kind == "GIF" else {}
    whole = encoded(Image.fromarray(noise(20, 24, 3)), kind, exif=exif, **frames)
    reasons = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(rng.choice((60, len(data))))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        reason = decode_or_refuse(bytes(data))
        assert reason != ""
        reasons += reason is not None
    assert reasons > 20


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"side": 0, "channels": 1}, "size from 1 to 1024"),
        ({"side": 1025, "channels": 1}, "size from 1 to 1024"),
        ({"side": 8, "channels": 2}, "channels=2 .* 1 is grey, 3 is colour"),
        ({"side": 8, "channels": 1, "resample": "cubic"}, "no filter 'cubic'.*bicubic"),
    ],
)
def test_decodings_that_cannot_be_made_are_refused(given, words):
    with pytest.raises(InputError, match=words):
        Decoding(**given)


# -- store --


class Reader:
    """Reads class folders, in split folders or not, and counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, root: Path) -> Listing:
        self.calls += 1
        paths = sorted(root.rglob("*.png"))
        classes = sorted({path.parent.name for path in paths})
        labels = np.array([classes.index(path.parent.name) for path in paths], np.int64)
        names = [path.relative_to(root).as_posix() for path in paths]
        splits = {
            split: numbers
            for split in ("train", "val", "test")
            if len(numbers := np.flatnonzero([name.startswith(split) for name in names]))
        }
        return Listing(
            "class folders", FilePictures(paths), names, labels, classes, splits, [("notes.txt", "no image")]
        )


def drawn(place: Path, value: int) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (6, 6), value).save(place)
    return place


@pytest.fixture
def source(tmp_path):
    """Six pictures of three classes. The value of a picture shows which it is."""
    for number in range(6):
        drawn(tmp_path / "data" / "abc"[number // 2] / f"{number}.png", 10 * number)
    return tmp_path / "data"


@pytest.fixture
def reader():
    return Reader()


def values(found) -> list[int]:
    assert all(len(np.unique(picture)) == 1 for picture in found.pixels)
    return found.pixels[:, 0, 0, 0].tolist()


def test_pictures_are_built_once(source, reader):
    told = []
    first = load_pictures(source, reader, GREY, lambda done, of: told.append((done, of)))
    again = load_pictures(source, reader, GREY)
    assert reader.calls == 1 and told == [(n, 6) for n in range(1, 7)]
    for found in (first, again):
        assert values(found) == [0, 10, 20, 30, 40, 50] and found.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert found.classes == ["a", "b", "c"] and found.names[3] == "b/3.png" and found.layout == "class folders"
        assert found.skipped == [("notes.txt", "no image")] and found.changed == {} and found.splits == {}
    assert first.digest == again.digest and len(first.digest) == 12


def test_bytes_are_memory_mapped_and_cannot_be_written(source, reader):
    pixels = load_pictures(source, reader, GREY).pixels
    assert isinstance(pixels, np.memmap) and pixels.dtype == np.uint8 and pixels.shape == (6, 1, 4, 4)
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 1


def test_each_decoding_and_each_source_has_an_entry_of_its_own(source, reader, tmp_path):
    assert load_pictures(source, reader, GREY).pixels.shape == (6, 1, 4, 4)
    assert load_pictures(source, reader, COLOUR).pixels.shape == (6, 3, 4, 4)
    assert load_pictures(source, reader, Decoding(5, 1)).pixels.shape == (6, 1, 5, 5)
    assert values(load_pictures(source, reader, Decoding(4, 1, invert=True)))[1] == 245
    other = shutil.copytree(source, tmp_path / "other")
    drawn(other / "a" / "0.png", 200)
    assert values(load_pictures(other, reader, GREY))[0] == 200
    assert values(load_pictures(source, reader, GREY))[0] == 0
    assert reader.calls == 5


def later(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


CHANGES = {
    "another time": lambda root: later(root / "a" / "0.png"),
    "another size": lambda root: (root / "a" / "0.png").write_bytes((root / "a" / "0.png").read_bytes() + b"x"),
    "another name": lambda root: (root / "a" / "0.png").rename(root / "a" / "1b.png"),
    "other rights": lambda root: (root / "a" / "0.png").chmod(0o400),
    "one more": lambda root: drawn(root / "a" / "new.png", 7),
    "one less": lambda root: (root / "a" / "0.png").unlink(),
    "another class": lambda root: (root / "a").rename(root / "d"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_entry_is_built_anew_when_its_source_changes(source, reader, change):
    before = load_pictures(source, reader, GREY)
    CHANGES[change](source)
    after = load_pictures(source, reader, GREY)
    assert reader.calls == 2
    fresh = reader(source)
    assert after.names == fresh.names and after.classes == fresh.classes
    assert values(before) == [0, 10, 20, 30, 40, 50], "a map that is in use keeps its bytes"
    load_pictures(source, reader, GREY)
    assert reader.calls == 3


def test_linked_folders_count_however_deep_and_loops_end(source, reader, tmp_path):
    deep = tmp_path / "linked" / "train"
    deep.mkdir(parents=True)
    (deep / "c").symlink_to(source / "c")
    (deep / "up").symlink_to(tmp_path / "linked")
    before = source_stamp(tmp_path / "linked")
    assert source_stamp(tmp_path / "linked") == before
    later(source / "c" / "5.png")
    assert source_stamp(tmp_path / "linked") != before


def test_a_table_stands_for_the_pictures_beside_it(source):
    table = source / "labels.csv"
    table.write_text("path,label\na/0.png,a\n")
    before = source_stamp(table)
    later(source / "a" / "0.png")
    assert source_stamp(table) != before


def test_an_idx_file_stands_for_its_labels_too(tmp_path):
    images, labels, other = (
        tmp_path / name for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz", "notes.txt")
    )
    for path in (images, labels, other):
        path.write_bytes(b"x")
    before = source_stamp(images)
    later(other)
    assert source_stamp(images) == before
    later(labels)
    assert source_stamp(images) != before


def test_a_source_that_cannot_be_read_is_one_sentence(tmp_path, reader):
    with pytest.raises(InputError, match=r"gone cannot be read \(No such file or directory\)"):
        load_pictures(tmp_path / "gone", reader, GREY)


def test_names_that_are_no_unicode_do_no_harm(tmp_path, reader):
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        drawn(place / "a" / "0.png", 70)
    except OSError as error:
        pytest.skip(f"this file system takes no such name: {error}")
    assert values(load_pictures(place, reader, GREY)) == [70]


def test_unreadable_pictures_are_left_out_and_listed(source, reader):
    (source / "a" / "1.png").write_text("no picture")
    (source / "b" / "2.png").write_bytes(b"")
    (source / "b" / "3.png").write_bytes((source / "c" / "4.png").read_bytes()[:50])
    drawn(source / "a" / "z.png", 99)
    found = load_pictures(source, reader, GREY)
    assert [name for name, _ in found.skipped] == ["notes.txt", "a/1.png", "b/2.png", "b/3.png"]
    assert all(why for _, why in found.skipped)
    assert found.classes == ["a", "c"], "class b has lost all of its pictures"
    assert values(found) == [0, 99, 40, 50] and found.labels.tolist() == [0, 0, 1, 1]
    assert found.names == ["a/0.png", "a/z.png", "c/4.png", "c/5.png"]


def test_splits_are_renumbered_when_pictures_are_left_out(tmp_path, reader):
    for number, split in enumerate(["test", "test", "train", "train", "val"]):
        drawn(tmp_path / "data" / split / "a" / f"{number}.png", 10 * number)
    (tmp_path / "data" / "test" / "a" / "0.png").write_text("broken")
    (tmp_path / "data" / "train" / "a" / "3.png").write_text("broken")
    found = load_pictures(tmp_path / "data", reader, GREY)
    assert {name: found.pixels[images, 0, 0, 0].tolist() for name, images in found.splits.items()} == {
        "train": [20],
        "val": [40],
        "test": [10],
    }


def test_when_no_picture_can_be_read_this_is_said(source, reader, cache):
    for path in source.rglob("*.png"):
        path.write_text("no picture")
    with pytest.raises(InputError, match=r"No picture could be read .*notes.txt: no image.*right folder"):
        load_pictures(source, reader, GREY)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_what_was_changed_is_counted(tmp_path):
    pictures = ArrayPictures(noise(5, 4, 4))
    listing = Listing("an array", pictures, [str(n) for n in range(5)], np.zeros(5, np.int64), ["one"])
    source = tmp_path / "array.npy"
    source.touch()
    found = load_pictures(source, lambda _: listing, COLOUR)
    assert found.changed == {"grey made colour": 5}
    assert np.array_equal(found.pixels[:, 2], pictures.values)


GARBLED = {
    "no pixels": lambda entry: (entry / "pixels.bin").unlink(),
    "few pixels": lambda entry: os.truncate(entry / "pixels.bin", 50),
    "more pixels": lambda entry: os.truncate(entry / "pixels.bin", 500),
    "no index": lambda entry: (entry / "index.json").unlink(),
    "half an index": lambda entry: os.truncate(entry / "index.json", (entry / "index.json").stat().st_size // 2),
    "zeros": lambda entry: (entry / "index.json").write_bytes(bytes(200)),
    "no object": lambda entry: (entry / "index.json").write_text("[1, 2]"),
    "a field less": lambda entry: edited(entry, lambda index: index.pop("labels")),
    "words for numbers": lambda entry: edited(entry, lambda index: index.update(labels=["x"])),
    "splits of another kind": lambda entry: edited(entry, lambda index: index.update(splits=[1])),
    "a later format": lambda entry: edited(entry, lambda index: index.update(format=99)),
}


def edited(entry: Path, change) -> None:
    index = json.loads((entry / "index.json").read_bytes())
    change(index)
    (entry / "index.json").write_text(json.dumps(index))


def entries(cache: Path) -> list[Path]:
    """Everything in the cache except the locks."""
    return [path for path in cache.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("damage", GARBLED)
def test_a_damaged_entry_is_built_anew(source, reader, cache, damage):
    whole = load_pictures(source, reader, GREY)
    (entry,) = entries(cache)
    GARBLED[damage](entry)
    again = load_pictures(source, reader, GREY)
    assert reader.calls == 2 and again.digest == whole.digest and values(again) == [0, 10, 20, 30, 40, 50]
    assert entries(cache) == [entry]


def test_an_entry_that_is_replaced_while_it_is_opened_is_not_half_the_old_one(
    source, reader, cache, tmp_path, monkeypatch
):
    load_pictures(source, reader, GREY)
    (entry,) = entries(cache)
    old = shutil.copytree(entry, tmp_path / "old")
    first = shutil.copy2(source / "a" / "0.png", tmp_path / "0.png")
    drawn(source / "a" / "0.png", 200)
    load_pictures(source, reader, GREY)
    new = entry.rename(tmp_path / "new")
    shutil.copy2(first, source / "a" / "0.png")
    shutil.copytree(old, entry)
    opened, plain = [], np.memmap

    def replaced_first(*args, **options):
        if not opened:
            shutil.rmtree(entry)
            shutil.copytree(new, entry)
        opened.append(args)
        return plain(*args, **options)

    monkeypatch.setattr(np, "memmap", replaced_first)
    found = load_pictures(source, reader, GREY)
    monkeypatch.undo()
    assert values(found) == [0, 10, 20, 30, 40, 50] and len(opened) == 2


def test_the_cache_may_be_read_only_once_it_is_built_and_the_data_always(source, reader, cache):
    """The tests may run as root, who may always write, so times are compared too."""
    places = [source, *source.iterdir()]
    for place in places:
        place.chmod(0o555)
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    load_pictures(source, reader, GREY)
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before
    cached = {path: path.stat().st_mtime_ns for path in [cache, *cache.rglob("*")]}
    assert values(load_pictures(source, reader, GREY)) == [0, 10, 20, 30, 40, 50]
    assert {path: path.stat().st_mtime_ns for path in [cache, *cache.rglob("*")]} == cached
    for place in places:
        place.chmod(0o755)


def test_a_cache_that_cannot_be_written_is_one_sentence(source, reader, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(RunError, match=r"file/cache could not be written: Not a directory\. .*QUICKSTUDY_CACHE"):
        load_pictures(source, reader, GREY)
    assert reader.calls == 0


@pytest.mark.parametrize("when", ["listed", "decoded"])
def test_pictures_that_change_while_they_are_read_are_not_kept(source, reader, cache, when):
    def change() -> None:
        drawn(source / "c" / "5.png", 222)

    def listed(root: Path) -> Listing:
        found = reader(root)
        change()
        return found

    read = listed if when == "listed" else reader
    progress = None if when == "listed" else lambda done, _: change() if done == 6 else None
    with pytest.raises(RunError, match="data was changed while its pictures were being decoded"):
        load_pictures(source, read, GREY, progress)
    assert entries(cache) == []
    assert values(load_pictures(source, reader, GREY)) == [0, 10, 20, 30, 40, 222]


def test_what_changed_while_another_process_held_the_lock_is_not_filed_under_what_was(source, reader, cache):
    load_pictures(source, reader, GREY)
    (entry,) = entries(cache)
    shutil.rmtree(entry)
    lock = FileLock(cache / f"{entry.name}.lock")
    with ThreadPoolExecutor(1) as other, lock:
        waiting = other.submit(load_pictures, source, reader, GREY)
        time.sleep(0.3)
        drawn(source / "c" / "5.png", 222)
        lock.release()
        assert values(waiting.result()) == [0, 10, 20, 30, 40, 222]
    load_pictures(source, reader, GREY)
    assert reader.calls == 2


def test_a_reader_that_fails_is_not_blamed_on_the_cache(source, cache):
    def failing(_: Path) -> Listing:
        raise PermissionError(13, "Permission denied", "secret.zip")

    with pytest.raises(PermissionError, match="secret.zip"):
        load_pictures(source, failing, GREY)
    assert entries(cache) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the folders of Linux; platformdirs knows those of other systems")
def test_the_cache_is_where_the_settings_say(monkeypatch, tmp_path):
    assert cache_root() == tmp_path / "cache"
    monkeypatch.setenv("QUICKSTUDY_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "quickstudy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "quickstudy"
    monkeypatch.setenv("QUICKSTUDY_CACHE", "~/own")
    assert cache_root() == tmp_path / "home" / "own"


# -- several processes, kills and full disks --


def killed_at(moment: int, cache: Path):
    """From now on, this process kills itself just before its `moment`-th change to the files of the cache."""
    seen, under = 0, str(cache)

    def watch(event: str, args: tuple) -> None:
        nonlocal seen
        if event in {"os.rename", "os.mkdir", "os.rmdir", "os.remove"} or (event == "open" and under in str(args[0])):
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


@pytest.mark.parametrize("before", ["nothing", "an entry of older data"])
def test_a_kill_at_any_instant_leaves_a_cache_that_is_built_right(source, reader, cache, tmp_path, before):
    if before != "nothing":
        load_pictures(source, reader, GREY)
        drawn(source / "a" / "0.png", 77)
        later(source / "a" / "0.png")
    expected = [77 if before != "nothing" else 0, 10, 20, 30, 40, 50]
    kept, moment, outcome = tmp_path / "kept", 0, -signal.SIGKILL
    if cache.exists():
        cache.rename(kept)
    while outcome == -signal.SIGKILL:
        moment += 1
        shutil.rmtree(cache, ignore_errors=True)
        if kept.exists():
            shutil.copytree(kept, cache)

        def work(moment=moment):
            killed_at(moment, cache)
            load_pictures(source, reader, GREY)

        outcome = wait_for(copy_of_this_process(work))
        found = load_pictures(source, reader, GREY)
        assert values(found) == expected and found.labels.tolist() == [0, 0, 1, 1, 2, 2], moment
        assert len(entries(cache)) == 1, "what the dead process left is gone"
    assert outcome == 0 and moment > 8, "the last copy was not killed: every instant before it was tried"


@pytest.mark.parametrize("after", random.Random(0).sample(range(1, 7), 3))
def test_a_kill_between_two_pictures_leaves_nothing_that_is_used(source, reader, after):
    def progress(done: int, of: int) -> None:
        if done == after:
            os.kill(os.getpid(), signal.SIGKILL)

    assert wait_for(copy_of_this_process(lambda: load_pictures(source, reader, GREY, progress))) == -signal.SIGKILL
    assert values(load_pictures(source, reader, GREY)) == [0, 10, 20, 30, 40, 50] and reader.calls == 1


def test_two_processes_build_one_entry_and_see_the_same_bytes(source, cache, tmp_path):
    start, end = os.pipe()

    def work(number: int):
        os.close(end)
        os.read(start, 1)  # ends when this process closes its side: both begin at once

        def read(root: Path) -> Listing:
            (tmp_path / f"read by {number}").touch()
            return Reader()(root)

        found = load_pictures(source, read, GREY, lambda done, of: time.sleep(0.01))
        (tmp_path / f"bytes {number}").write_bytes(found.pixels.tobytes() + found.digest.encode())

    children = [copy_of_this_process(lambda n=n: work(n)) for n in range(2)]
    os.close(end)
    os.close(start)
    assert [wait_for(child) for child in children] == [0, 0]
    first, second = ((tmp_path / f"bytes {n}").read_bytes() for n in range(2))
    assert first == second and len(first) == 6 * 16 + 12
    assert len(list(tmp_path.glob("read by *"))) == 1 and len(entries(cache)) == 1


@pytest.mark.parametrize("room", [0, 40, 100])
def test_a_full_disk_is_said_and_leaves_nothing_behind(source, reader, cache, tmp_path, room):
    """A limit on the size of files replaces a full disk: the system refuses to write more."""
    said = os.memfd_create("said")

    def work():
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            load_pictures(source, reader, GREY)
        except RunError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            os.write(said, str(error).encode())

    assert wait_for(copy_of_this_process(work)) == 0
    message = os.pread(said, 1000, 0).decode()
    os.close(said)
    assert message == f"{cache} could not be written: File too large. Free some space, or name another folder with " + (
        "QUICKSTUDY_CACHE."
    )
    assert entries(cache) == []
    assert values(load_pictures(source, reader, GREY)) == [0, 10, 20, 30, 40, 50]


def test_the_limit_did_not_reach_this_process():
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
