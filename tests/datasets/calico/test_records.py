import contextlib
import gzip
import os
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_files import arrays_of, crc32c, example, field, framed, write_records
from cisray.datasets.calico.records import masked_crc, parse_example, read_records, record_name
from cisray.errors import InputError

DATA = os.environ.get("CISRAY_DATA")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train-0.tfr"


@given(st.binary(max_size=40))
def test_the_checksum_is_castagnolis_masked(data):
    assert crc32c(b"123456789") == 0xE3069283  # the polynomial's check value
    assert framed(data)[-4:] == masked_crc(data).to_bytes(4, "little")


@pytest.mark.parametrize("sizes", [[], [0], [5], [3, 0, 70_000, 1]])
@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress])
def test_records_come_back_in_order(path, sizes, pack):
    records = [bytes([number]) * size for number, size in enumerate(sizes)]
    path.write_bytes(pack(b"".join(map(framed, records))))
    assert list(read_records(path)) == records


def test_a_record_larger_than_what_is_read_at_once_comes_back(path, monkeypatch):
    monkeypatch.setattr("cisray.datasets.calico.records._READ_BYTES", 7)
    record = np.random.default_rng(1).bytes(3000)
    write_records(path, [record, record[:100]])
    assert list(read_records(path)) == [record, record[:100]]


def test_an_empty_file_has_no_record(path):
    path.write_bytes(b"")
    assert list(read_records(path)) == []


@pytest.mark.parametrize("keep", [1, 10, 0.5, -1])
def test_a_truncated_file_is_told_with_its_record(path, keep):
    random = np.random.default_rng(2)
    write_records(path, [random.bytes(2000) for _ in range(4)])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep == 0.5 else keep])
    read = []
    with pytest.raises(InputError, match=r"record \d: truncated or damaged.*no end.*copy or make it again") as caught:
        read.extend(read_records(path))
    assert str(caught.value).startswith(f"{record_name(path, len(read))}:")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-2], "record 1: truncated.*the stream ends inside a record of 9 bytes"),
        (lambda data: data[:-8], "record 1: truncated.*the stream ends inside a record of 9 bytes"),
        (lambda data: data[:-20], "record 1: truncated.*the stream ends inside a record's length"),
        (lambda data: data[:-6] + b"?" + data[-5:], "record 1: its checksum does not match its 9 bytes"),
        (lambda data: b"\1" + data[1:], "record 0: the checksum of its length does not match"),
        (lambda data: data[:4] + b"\xff" + data[5:], "record 0: the checksum of its length does not match"),
    ],
)
def test_a_record_that_is_not_what_was_written_is_told(path, change, message):
    path.write_bytes(zlib.compress(change(framed(b"first") + framed(b"the other"))))
    with pytest.raises(InputError, match=re.escape(f"{path}: ") + message):
        list(read_records(path))


def test_what_is_no_compressed_stream_is_told(path, tmp_path):
    path.write_bytes(framed(b"not compressed"))
    with pytest.raises(InputError, match=r"record 0: .* not a ZLIB-compressed TFRecord file \(.*incorrect header"):
        list(read_records(path))
    path.write_bytes(zlib.compress(framed(b"x")) + b"more")
    with pytest.raises(InputError, match=r"record 1: .*bytes follow the end of the compressed stream"):
        list(read_records(path))
    with pytest.raises(InputError, match="no such file, but a TFRecord file was expected"):
        list(read_records(tmp_path / "none.tfr"))


@given(st.dictionaries(st.text(max_size=200), st.binary(max_size=300), max_size=4))
def test_features_come_back(features):
    found = parse_example(example(**features), where="here")
    assert {name: bytes(value) for name, value in found.items()} == features


def test_protobuf_reads_the_same():
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    # the messages of tensorflow/core/example: a map is a repeated entry of key and value
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    fields = {
        "BytesList": [("value", 1, 3, 12, "")],
        "FloatList": [("value", 1, 3, 2, "")],
        "Feature": [("bytes_list", 1, 1, 11, ".t.BytesList"), ("float_list", 2, 1, 11, ".t.FloatList")],
        "Entry": [("key", 1, 1, 9, ""), ("value", 2, 1, 11, ".t.Feature")],
        "Features": [("feature", 1, 3, 11, ".t.Entry")],
        "Example": [("features", 1, 1, 11, ".t.Features")],
    }
    for name, members in fields.items():
        message = file.message_type.add(name=name)
        for member, number, label, kind, type_name in members:
            message.field.add(name=member, number=number, label=label, type=kind, type_name=type_name or None)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))()
    (codes,), (targets,) = arrays_of(1)
    for key, value in {"sequence": codes, "target": targets}.items():
        made.features.feature.add(key=key).value.bytes_list.value.append(value.tobytes())
    made.features.feature.add(key="umap").value.float_list.value.extend([0.5, 1.0])
    made.features.feature.add(key="two").value.bytes_list.value.extend([b"a", b"b"])
    found = parse_example(made.SerializeToString(), where="here")
    assert found.keys() == {"sequence", "target"}
    assert bytes(found["sequence"]) == codes.tobytes()
    assert bytes(found["target"]) == targets.tobytes()
    ours = example(sequence=codes.tobytes(), target=targets.tobytes())
    assert [each.key for each in type(made).FromString(ours).features.feature] == ["sequence", "target"]


@pytest.mark.parametrize(
    "record",
    [
        b"no protocol buffer",
        example(sequence=b"ACGT")[:-1],
        b"\xff" * 12,
        field(1, b"\x08\x01"),  # a number where a message should be
        field(1, field(1, field(1, b"\xff") + field(2, b""))),  # a name that is no text
    ],
)
def test_what_is_no_example_is_told(record):
    with pytest.raises(InputError, match=r"^there: not a tf\.train\.Example \(.*wanted records with the features"):
        parse_example(record, where="there")


@given(st.binary(max_size=60))
def test_no_bytes_make_another_error(record):
    with contextlib.suppress(InputError):
        parse_example(record, where="there")


@pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
def test_shipped_records_pass_their_checksums():
    paths = sorted(Path(DATA, "human_tiny/hg38/tfrecords").glob("*.tfr"))
    records = [parse_example(record, where=str(path)) for path in paths for record in read_records(path)]
    assert len(records) == 65
    assert {(record["sequence"].nbytes, record["target"].nbytes) for record in records} == {(131072, 2 * 2048 * 74)}
