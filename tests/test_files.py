import errno
import hashlib
import json
import math
import os
import random
import shutil

import pytest

from cisray.errors import InputError
from cisray.files import (
    file_digest,
    folder_written_whole,
    full_disk_told,
    read_json,
    replace_folder,
    sampled_digest,
    value_digest,
    within,
    write_json,
    written_whole,
)


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new/folder/a.txt"
    with written_whole(path) as aside:
        aside.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def write_half(writing):
    """Write something into a file or folder, then fail."""
    with writing as aside:
        (aside / "b" if aside.is_dir() else aside).write_text("half")
        raise KeyError("halfway")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError, match="halfway"):
        write_half(written_whole(path))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with written_whole(path) as first, written_whole(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer block ended last
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_its_place_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out"
    with folder_written_whole(path) as aside:
        (aside / "a").write_text("1")
    with pytest.raises(KeyError, match="halfway"):
        write_half(folder_written_whole(path))
    assert [file.name for file in path.iterdir()] == ["a"]
    with folder_written_whole(path) as aside:
        (aside / "c").write_text("3")
    assert [file.name for file in path.iterdir()] == ["c"]  # the older one's files are gone
    assert list(tmp_path.iterdir()) == [path]


def test_replace_folder_leaves_neither_the_source_nor_the_old_one(tmp_path):
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "source", tmp_path / "target")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "target",
        "target/source",
    ]


def test_json_round_trip_and_equal_bytes(tmp_path):
    value = {"name": "Ångström", "list": [1, 2.5, None], "nested": {"yes": True}}
    write_json(tmp_path / "a.json", value)
    write_json(tmp_path / "b.json", json.loads(json.dumps(value)))
    assert read_json(tmp_path / "a.json", what="thing") == value
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "c.json", {"x": math.nan})
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe{}"])
def test_unreadable_json_is_told_with_what_it_should_have_been(tmp_path, content):
    path = tmp_path / "card.json"
    with pytest.raises(InputError, match=r"card\.json: no such file, but a dataset card was expected"):
        read_json(path, what="dataset card")
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"card\.json: not a readable dataset card"):
        read_json(path, what="dataset card")


def test_digests(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc" * 100_000)
    assert file_digest(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()
    assert value_digest({"a": 1, "b": [2, "x"]}) == value_digest({"b": [2, "x"], "a": 1})
    assert len({value_digest(value) for value in ({"a": 1}, {"a": "1"}, {"a": [1]}, {"b": 1}, {})}) == 5


@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_sampled_digest_notices_what_cuts_grows_or_rewrites_a_file(tmp_path, size):
    path = tmp_path / "a"
    data = random.Random(size).randbytes(size)
    path.write_bytes(data)
    digest = sampled_digest(path)
    assert sampled_digest(path) == digest
    changes = [data + b"x", random.Random(size + 1).randbytes(size + 2)]
    if size:
        changes += [data[:-1], bytes([data[0] ^ 1]) + data[1:], data[:-1] + bytes([data[-1] ^ 1])]
    for change in changes:
        path.write_bytes(change)
        assert sampled_digest(path) != digest


def test_a_folder_is_not_read_as_json(tmp_path):
    for path in (tmp_path, tmp_path / "a" / "b"):
        (tmp_path / "a").touch()
        with pytest.raises(InputError, match="a card was expected here, and this is or lies below something else"):
            read_json(path, what="card")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        OSError(f"Error writing bytes to file. Detail: [errno 28] {os.strerror(errno.ENOSPC)}"),
        shutil.Error([("a", "b", f"[Errno 28] {os.strerror(errno.ENOSPC)}")]),
    ],
)
def test_a_full_disk_is_told_with_the_folder_and_leaves_nothing_behind(tmp_path, error):
    told = r"new/folder: no room for a.txt \(\d+ of \d+ MiB are free\); make room, then run again, which goes on where"
    path = tmp_path / "new/folder/a.txt"
    with pytest.raises(InputError, match=told), full_disk_told(path):  # before there is a folder
        raise error
    for written in (written_whole, folder_written_whole):
        with pytest.raises(InputError, match=told), written(path):
            raise error
    assert list(path.parent.iterdir()) == []


def test_other_errors_of_a_disk_are_left_alone(tmp_path):
    with pytest.raises(PermissionError, match="not yours"), full_disk_told(tmp_path / "a.txt"):
        raise PermissionError(errno.EACCES, "not yours")


@pytest.mark.parametrize(
    "name",
    ["../secret", "a/../../secret", "/etc/passwd", "link", "folder/deep", "ring", "a\0b", "..", "inside/../../x"],
)
def test_a_stored_name_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    folder = tmp_path / "thing"
    (folder / "inside").mkdir(parents=True)
    (tmp_path / "secret").write_text("s")
    (folder / "link").symlink_to("../secret")
    (folder / "folder").symlink_to(tmp_path)
    (folder / "ring").symlink_to("ring")
    with pytest.raises(InputError, match=r"thing: .* leads out of this bundle, and is not read; copy the bundle again"):
        within(folder, name, what="bundle")


def test_a_stored_name_inside_is_taken_whether_or_not_the_folder_is_itself_a_link(tmp_path):
    (tmp_path / "thing" / "inside").mkdir(parents=True)
    (tmp_path / "thing" / "real").write_text("r")
    (tmp_path / "thing" / "near").symlink_to("inside/../real")
    (tmp_path / "alias").symlink_to("thing")
    for folder in (tmp_path / "thing", tmp_path / "alias"):
        for name in ("real", "near", "inside/not there yet.json", "...", "a..b"):
            assert within(folder, name, what="bundle") == folder / name
