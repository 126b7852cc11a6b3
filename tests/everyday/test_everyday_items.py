"""A user's X in every form, and datasets of examples with their labels."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import quickstudy as qs
from quickstudy.errors import InputError
from quickstudy.everyday.items import as_pictures, read_dataset, read_items

IMAGE = Image.new("L", (4, 4))


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        (np.zeros((3, 2)), (3, 2)),
        (np.zeros((3, 2), dtype=np.int16), (3, 2)),
        (np.zeros((3, 2), dtype=bool), (3, 2)),
        ([[1, 2.5], [3, 4]], (2, 2)),
        ([np.zeros(3), np.ones(3)], (2, 3)),
        ([torch.zeros(3, 4, 4)] * 2, (2, 3, 4, 4)),
        (torch.zeros(2, 3, dtype=torch.bfloat16), (2, 3)),
        (np.array([[1, 2]], dtype=object), (1, 2)),
    ],
)
def test_numbers_become_a_tensor(given, shape):
    found = read_items(given)
    assert isinstance(found, torch.Tensor) and tuple(found.shape) == shape


@pytest.mark.parametrize(
    "given",
    [
        ["a.png", Path("b.png"), IMAGE],
        np.array(["a", "b"]),
        np.array(["a", IMAGE], dtype=object),
        (IMAGE,),
        [np.zeros((2, 2), np.uint8), np.zeros((3, 3), np.uint8)],
    ],
)
def test_pictures_and_texts_stay_a_list(given):
    assert isinstance(read_items(given), list) and len(read_items(given)) == len(given)


def test_one_alone_is_a_list_of_one():
    assert read_items(IMAGE) == [IMAGE] and read_items("a.png") == ["a.png"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "X is None"),
        ([], "X is empty"),
        (3, "is a int"),
        (np.zeros(0), r"has the shape \[0\]"),
        (np.zeros(2, complex), "of type complex128"),
        ([[1], [2, 3]], "several kinds or lengths"),
        ([b"good", b"bad"], "X holds bytes. Texts: decode them first"),
        (np.array([b"good"]), "X holds bytes"),
        (np.array([b"good", 3], dtype=object), "X holds bytes"),
        (["a", 3], r"several kinds \(int and str\)"),
        ([0.5, "a"], r"several kinds \(float and str\)"),
        (SimpleNamespace(toarray=None, nnz=1), "sparse"),
    ],
)
def test_what_holds_no_examples_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        read_items(given)


class Named:
    """A dataset as Hugging Face's are: rows with names, and the names of the classes beside them."""

    def __init__(self, rows, names=None):
        self.rows = rows
        self.features = {"label": SimpleNamespace(names=names)}

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]


def test_a_dataset_of_torch_teaches():
    rows = TensorDataset(torch.tensor([[0.0], [1.0], [8.0], [9.0]]), torch.tensor([0, 0, 1, 1]))
    assert qs.FewShotClassifier().fit(rows).predict([[2.0], [7.0]]).tolist() == [0, 1]


def test_labels_that_are_tensors_are_told_apart_by_their_numbers():
    rows = [(torch.randn(3), torch.tensor(n // 2)) for n in range(6)]
    assert qs.FewShotClassifier().fit(Named(rows)).classes_.tolist() == [0, 1, 2]


def test_a_folder_that_is_not_there_is_named():
    for estimator in (qs.FewShotClassifier("photos"), qs.FewShotClassifier()):
        with pytest.raises(InputError, match="There is no folder 'petz/'"):
            estimator.fit("petz/")


@pytest.mark.parametrize("size", [3, 4])
def test_one_picture_in_colour_is_not_taken_for_many_narrow_ones(size):
    picture = read_items(np.zeros((84, 84, size), np.uint8))
    with pytest.raises(InputError, match=r"seems to be one picture.*X\[None\], \[1, 84, 84"):
        as_pictures(picture)
    for pixels in (picture, picture.float() / 255):
        with pytest.raises(InputError, match=r"seems to be one picture.*X\[None\], \[1, 84, 84"):
            qs.FewShotClassifier("photos").fit(pixels, [0, 1] * 42)
    assert len(as_pictures(picture[None])) == 1 and len(as_pictures(read_items(np.zeros((5, 8, 8), np.uint8)))) == 5


def test_truth_values_beside_bytes_are_black_and_white():
    ink = np.eye(4, dtype=bool)
    found = read_items([ink, np.full((4, 4), 7, np.uint8)])
    assert found[0].tolist() == (ink * 255).tolist() and (found[1] == 7).all()
    assert read_items([np.array([True, False]), np.array([2, 3])]).tolist() == [[1, 0], [2, 3]], "a row of numbers"


def test_a_dataset_with_names_teaches_the_names_of_its_classes():
    found = read_dataset(Named([{"image": IMAGE, "label": 1}, {"image": IMAGE, "label": 0}], ["cat", "dog"]))
    assert found.labels == ["dog", "cat"] and found.items == [IMAGE, IMAGE]
    assert read_dataset(Named([{"text": "hello", "label": "a"}])).labels == ["a"]


@pytest.mark.parametrize(
    ("rows", "message"), [([], "is empty"), ([{"a": 1}], "needs one of image"), ([(1, 2, 3)], "no pairs")]
)
def test_another_dataset_is_refused(rows, message):
    with pytest.raises(InputError, match=message):
        read_dataset(Named(rows))
