"""Labels of any hashable kind become class numbers whose order does not depend on the order of the examples."""

from collections import namedtuple
from datetime import date
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quickstudy.errors import InputError
from quickstudy.everyday.labels import (
    as_label_array,
    dump_labels,
    load_labels,
    number_labels,
    read_labels,
    sort_classes,
)

PLAIN = st.recursive(
    st.text(max_size=3) | st.integers(-5, 5) | st.booleans() | st.floats(allow_nan=False, allow_infinity=False),
    lambda part: st.lists(part, max_size=2).map(tuple),
    max_leaves=3,
)


@given(st.lists(PLAIN, min_size=1, max_size=6), st.randoms())
def test_the_order_of_the_examples_decides_nothing(labels, random):
    shuffled = labels.copy()
    random.shuffle(shuffled)
    classes = sort_classes(labels)
    assert sort_classes(shuffled) == classes
    assert [classes[number] for number in number_labels(labels, classes)] == labels


def test_sets_as_labels_have_one_order():
    """`<` orders sets in part only."""
    labels = [frozenset({1}), frozenset({2}), frozenset({1, 2}), frozenset()]
    assert sort_classes(labels) == sort_classes(labels[::-1]) == sort_classes([labels[n] for n in (2, 0, 3, 1)])


@given(st.lists(PLAIN, min_size=1, max_size=6))
def test_plain_labels_survive_a_file(labels):
    classes = sort_classes(labels)
    again = load_labels(dump_labels(classes))
    assert again == classes and list(map(type, again)) == list(map(type, classes))


@given(st.lists(PLAIN, min_size=1, max_size=6) | st.lists(st.integers(), min_size=1) | st.lists(st.text(), min_size=1))
def test_an_array_of_labels_holds_the_labels(labels):
    found = as_label_array(labels).tolist()
    assert found == labels and list(map(type, found)) == list(map(type, labels))


@pytest.mark.parametrize("labels", [[2**63 + 1, -1], [2**70, 1], ["a\0", "a"]])
def test_labels_that_numpy_would_change_are_kept(labels):
    assert as_label_array(labels).tolist() == labels


@pytest.mark.parametrize(
    ("y", "labels"),
    [
        (np.array([2, 1], dtype=np.uint8), [2, 1]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([1.0, 2.0]), [1.0, 2.0]),
        (torch.tensor([1, 0]), [1, 0]),
        ([np.int64(1), np.str_("a"), (np.int64(2), "b")], [1, "a", (2, "b")]),
        (np.array([("a", 1), "b"], dtype=object), [("a", 1), "b"]),
        (range(3), [0, 1, 2]),
        (list(torch.tensor([1, 0, 1])), [1, 0, 1]),
        ([(torch.tensor(1), "a"), (torch.tensor(1), "a")], [(1, "a"), (1, "a")]),
        ([np.array(2), np.array("a"), torch.tensor(True)], [2, "a", True]),
        (np.ma.array([1, 2], mask=False), [1, 2]),
    ],
)
def test_labels_become_values_of_python(y, labels):
    found = read_labels(y)
    assert found == labels and [type(label) for label in found] == [type(label) for label in labels]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([1.0, float("nan")], "The label of example 1 is NaN"),
        ([Decimal(1), Decimal("NaN")], "The label of example 1 is NaN"),
        (["a", Decimal("sNaN")], "The label of example 1 is sNaN"),
        ({"a", "b"}, "y is a set, which has no order"),
        (frozenset("ab"), "y is a frozenset, which has no order"),
        ({"a": 0, "b": 1}, "y is a dict, which has no order"),
        (np.array([1.0, np.nan]), "The label of example 1 is NaN"),
        (["a", None], "The label of example 1 is None"),
        (["a", ["b"]], "is a list, which cannot name a class"),
        (["a", torch.ones(2)], "is a Tensor, which cannot name a class"),
        (["a", ("b", torch.ones(2))], "is a tuple, which cannot name a class"),
        (["a", ("b", (torch.ones(2), "c"))], "is a tuple, which cannot name a class"),
        ([("a", float("nan")), ("a", 1.0)], "The label of example 0 is .*names no class"),
        ([("a", 1.0), ("a", (float("inf"), 2))], "The label of example 1 is .*names no class"),
        ([("a", None)], "names no class"),
        (np.ma.array([1, 2], mask=[True, False]), "Some values are masked"),
        (np.array([0.5, 1.5]), "Unknown label type: continuous"),
        ([0.5, 1.5], "Unknown label type: continuous"),
        (np.array([0.5, 1], dtype=object), "Unknown label type: continuous"),
        ([torch.tensor(0.5), torch.tensor(1.0)], "Unknown label type: continuous"),
        (np.zeros((2, 2), int), "one label for each example"),
        ("ab", "give a list with a label"),
        (3, "is a int: give a list"),
        (None, "the target y is None"),
    ],
)
def test_what_names_no_class_is_refused(y, message):
    with pytest.raises(InputError, match=message):
        read_labels(y)


@pytest.mark.parametrize("label", [date(2020, 1, 1), frozenset({1}), namedtuple("Pair", "a b")(1, 2)])
def test_a_label_that_no_file_can_hold_is_named(label):
    with pytest.raises(InputError, match=f"is a {type(label).__name__}, which a file cannot hold"):
        dump_labels([label])


@pytest.mark.parametrize("text", ["{}", "[null]", '[{"tuple": 1}]', '["a", "a"]', "[NaN]", "[[1]]", "["])
def test_damaged_classes_are_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        load_labels(text)
