"""`tf.train.Example` messages: what the classes that protoc made write is read back, and what is cut off refused."""

import struct

import hypothesis
import pytest
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

from fedjaxlite.datasets.formats import tf_example


def example(features):
    """A tf.train.Example, serialized by the classes that protoc made."""
    made = tf_example_pb2.Example()
    for name, values in features.items():
        feature = made.features.feature[name]
        kind = type(values[0])
        chosen = {float: feature.float_list, int: feature.int64_list, bytes: feature.bytes_list}[kind]
        chosen.value.extend(values)
    return made.SerializeToString()


FEATURES = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30),
    st.lists(st.binary(max_size=200), min_size=1, max_size=5),
)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.dictionaries(st.text(max_size=5), FEATURES, max_size=4))
@pytest.mark.whole
def test_messages_are_read_as_protoc_writes_them(features):
    read = tf_example.values(example(features))
    assert read.keys() == features.keys()
    for name, values in features.items():
        assert (read[name] if isinstance(values[0], bytes) else read[name].tolist()) == values


def test_numbers_that_are_not_packed_are_read_alike():
    def field(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    floats = b"".join(bytes([1 << 3 | 5]) + struct.pack("<f", v) for v in (1.5, -2.0))
    ints = b"".join(bytes([1 << 3]) + v for v in (b"\x05", b"\xac\x02", b"\xff" * 9 + b"\x01"))
    for kind, content, expected in ((2, floats, [1.5, -2.0]), (3, ints, [5, 300, -1])):
        message = field(1, field(1, field(1, b"y") + field(2, field(kind, content))))
        assert tf_example.values(message)["y"].tolist() == expected
    for end in (3, len(message) - 1):
        with pytest.raises(ValueError, match="cut off|does not end"):
            tf_example.values(message[:end])
