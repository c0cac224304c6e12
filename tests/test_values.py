"""Values survive the way through JSON and tensors exactly, or are refused."""

import json
import math
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from softhead._values import decode, encode

NUMBERS = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]


def there_and_back(value):
    tensors = {}
    text = json.dumps(encode(value, "", tensors), allow_nan=False)
    result = decode(json.loads(text), tensors)
    assert tensors == {}
    return result


def assert_same(value, other):
    """Equal in type and value all the way down: 1 is not True, 0.0 not -0.0, float32 not float64, NaN is NaN."""
    assert type(value) is type(other)
    if isinstance(value, dict):
        assert value.keys() == other.keys()
        for key in value:
            assert_same(value[key], other[key])
    elif isinstance(value, list):
        assert len(value) == len(other)
        for item, other_item in zip(value, other, strict=True):
            assert_same(item, other_item)
    elif isinstance(value, np.ndarray):
        assert (value.dtype, value.shape) == (other.dtype, other.shape)
        assert value.tolist() == other.tolist() if value.dtype == object else value.tobytes() == other.tobytes()
    elif isinstance(value, float):
        assert (math.isnan(value) and math.isnan(other)) or value.hex() == other.hex()
    else:
        assert value == other


TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["float", "tensor", "strings", "dict", "$"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | arrays.arrays(st.sampled_from(NUMBERS), arrays.array_shapes(min_dims=0, min_side=0, max_side=3))
    | st.lists(TEXT, max_size=3).map(lambda strings: np.array([*strings, None], dtype=object)[:-1])
)


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)))
def test_values_come_back_the_same(value):
    assert_same(value, there_and_back(value))


@pytest.mark.parametrize("tag", ["float", "tensor", "strings", "dict"])
def test_dictionaries_that_look_like_references_come_back_the_same(tag):
    for value in ({tag: "inf"}, {tag: {tag: "inf"}}, {tag: {"dict": {}}}, {tag: [np.arange(3.0)], "other": math.inf}):
        assert_same(value, there_and_back(value))


def test_names_of_tensors_are_their_paths():
    tensors = {}
    encode({"a/b": {"~c": [None, np.zeros(1)]}, "a": {"b": np.ones(1)}}, "", tensors)
    assert list(tensors) == ["/a~1b/~0c/1", "/a/b"]


def test_strings_are_their_bytes_and_offsets():
    tensors = {}
    reference = encode(np.array(["é", "", "\x00z"], dtype=object), "/labels", tensors)
    assert reference == {"strings": "/labels"}
    assert tensors["/labels/utf8"].tobytes() == b"\xc3\xa9\x00z"
    assert tensors["/labels/offsets"].tolist() == [0, 2, 2, 4]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ((1, 2), "tuple"),
        ({1, 2}, "set"),
        (b"bytes", "bytes"),
        (1j, "complex"),
        (np.int64(1), "int64"),
        (date(2013, 1, 1), "date"),
        (np.ma.masked_array([1.0], [True]), "MaskedArray"),
        (np.array(["a"]), "<U1"),
        (np.array([1j]), "complex128"),
        (np.array(["2013-01-01"], dtype="M8[D]"), "datetime64"),
        (np.array([("a", 1)], dtype=[("x", "U1"), ("y", "i4")]), "1 dimensions"),
        (np.array(["a", None], dtype=object), "object"),
        (np.array([["a"]], dtype=object), "2 dimensions and dtype object"),
    ],
)
def test_other_values_are_refused_by_their_path(value, kind):
    with pytest.raises(TypeError, match=rf"cannot store /record/1/x: got .*({kind}).*accepted are"):
        encode([None, {"x": value}], "/record", {})


def test_other_keys_are_refused():
    with pytest.raises(TypeError, match="cannot store /record: the keys of a dictionary must be str, got 3"):
        encode({3: "three"}, "/record", {})


def test_empty_arrays_that_claim_much_are_refused():
    assert_same(np.zeros((0, 1 << 16)), there_and_back(np.zeros((0, 1 << 16))))
    with pytest.raises(ValueError, match="'/record' is empty, with a shape of more than 65536"):
        encode(np.zeros((257, 0, 256)), "/record", {})


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, np.array(["a", "\ud83d"], dtype=object)])
def test_half_surrogate_pairs_are_refused(value):
    with pytest.raises(ValueError, match="is not valid Unicode"):
        encode(value, "/record", {})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"tensor": "/b"}, "tensor '/b' is missing or referred to twice"),
        ({"tensor": ["/a"]}, r"tensor \['/a'\] is missing"),
        ([{"tensor": "/a"}, {"tensor": "/a"}], "tensor '/a' is missing or referred to twice"),
        ({"strings": "/a"}, "tensor '/a/utf8' is missing"),
        ({"strings": None}, "tensor 'None/utf8' is missing"),
        ({"float": "1e5"}, "stands for nothing known"),
        ({"float": ["inf"]}, "stands for nothing known"),
        ({"dict": 3}, "stands for nothing known"),
        ("\ud800", "not valid Unicode"),
        ([{"x": 0, "\ud800": 0}], "not valid Unicode"),
    ],
)
def test_unknown_references_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        decode(value, {"/a": np.zeros(2)})


@pytest.mark.parametrize(
    ("utf8", "offsets"),
    [
        (b"ab", np.array([], np.int64)),
        (b"ab", np.array([0])),
        (b"ab", np.array([1, 2])),
        (b"ab", np.array([0, 1])),
        (b"ab", np.array([0, 3])),
        (b"ab", np.array([0, 2, 1, 2])),
        (b"ab", np.array([0, -1, 2])),
        (b"ab", np.array([0, np.iinfo(np.int64).min, np.iinfo(np.int64).max, 2])),
        (b"ab", np.array([[0, 2]])),
        (b"ab", np.array(2)),
        (b"ab", np.array([0.0, 2.0])),
        (b"ab", np.array([0, 2], np.int32)),
        (b"\xc3\xa9", np.array([0, 1, 2])),
        (b"\xff\xfe", np.array([0, 2])),
    ],
)
def test_strings_that_do_not_fit_are_refused(utf8, offsets):
    tensors = {"/a/utf8": np.frombuffer(utf8, np.uint8), "/a/offsets": offsets}
    with pytest.raises(ValueError, match=r"strings '/a' (do not fit|are not valid UTF-8)"):
        decode({"strings": "/a"}, tensors)
