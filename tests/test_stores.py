import time

import pytest

from cisray.errors import InputError
from cisray.stores import is_remote, is_uri, look, open_place, path_of_file_uri, read, told
from object_store import send, served, served_bucket


@pytest.fixture(scope="module")
def bucket():
    with pytest.MonkeyPatch.context() as patch, served_bucket(patch) as store:
        yield store


@pytest.mark.parametrize("name", ["s3://bucket/x.fa", "gs://b/x", "https://host/x", "file:///x", "GS://b/x"])
def test_a_uri_is_told_from_a_path(name):
    assert is_uri(name)
    assert is_remote(name) == (not name.startswith("file"))


@pytest.mark.parametrize("name", ["genome.fa", "/a/b", "models:/yeast@champion", "bed:x.bed", "a//b", "s3:/x", ""])
def test_a_path_is_no_uri(name):
    assert not is_uri(name)
    assert not is_remote(name)


def test_a_file_uri_is_a_path_of_this_machine():
    assert str(path_of_file_uri("file:///data/my%20genome.fa")) == "/data/my genome.fa"
    assert str(path_of_file_uri("file://localhost/data/x")) == "/data/x"
    with pytest.raises(InputError, match=r"file://host/x: names a machine \(host\); wanted file:///FOLDER/FILE"):
        path_of_file_uri("file://host/x")


def test_objects_are_found_by_their_size_tag_and_time(bucket):
    uri = bucket.put("found/x.fa", b"ACGT" * 10)
    bucket.put("found/more/y", b"1")
    (one,) = look(open_place(uri))
    assert (one.name, one.num_bytes) == ("", 40)
    assert one.version.strip('"').isalnum()
    assert abs(one.mtime_ns / 1e9 - time.time()) < 100
    names = [each.name for each in look(open_place("s3://bucket/found/"))]
    assert names == ["more/y", "x.fa"]
    with read(open_place(uri), "") as stream:
        assert stream.read() == b"ACGT" * 10


def test_an_object_of_equal_size_has_another_version(bucket):
    uri = bucket.put("version", b"A")
    before = look(open_place(uri))
    bucket.put("version", b"C")
    assert look(open_place(uri)) != before


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://bucket/missing.fa", r"^s3://bucket/missing\.fa: no such object or folder; check the name$"),
        ("s3://nobucket/x", r"^s3://nobucket/x: no such bucket; .*AWS_ACCESS_KEY_ID.*AWS_ENDPOINT_URL"),
    ],
)
def test_what_is_not_there_is_told(bucket, uri, message):
    with pytest.raises(InputError, match=message):
        look(open_place(uri))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://bucket", r"s3://bucket: names no object; wanted s3://BUCKET/KEY"),
        ("gs://bucket/x?generation=1", r"wanted gs://BUCKET/KEY without \? and #; .*GOOGLE_APPLICATION_CREDENTIALS"),
        ("s3://me:hidden@bucket/x", r"^s3://bucket/x: the URI holds a credential; leave it out"),
        ("https://host/x?X-Amz-Signature=hidden", r"^https://host/x.*: the URI holds a credential; leave it out"),
        ("nosuch://host/x", r"nosuch://host/x: nosuch:// cannot be opened here \(.*\); wanted a path, s3://"),
    ],
)
def test_a_uri_that_cannot_be_one_is_refused_without_a_credential_being_told(uri, message):
    with pytest.raises(InputError, match=message) as refused:
        open_place(uri)
    assert "hidden" not in str(refused.value)


def complaint_about(uri):
    """Return what is said of a store, and after how many seconds."""
    started = time.monotonic()
    place = open_place(uri)
    with pytest.raises(InputError, match=r"cannot be read: ") as refused, told(place, "read"):
        look(place)
    return str(refused.value), time.monotonic() - started


def test_a_store_that_is_not_reached_is_told_soon(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    message, seconds = complaint_about("s3://bucket/x")
    assert message.startswith("s3://bucket/x: cannot be read: ")
    assert "Could not connect" in message
    assert "AWS_ENDPOINT_URL" in message
    assert seconds < 20


def test_a_store_that_refuses_is_told_as_it_said(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    with served(lambda handler: handler.send_error(403)) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        message, seconds = complaint_about("s3://bucket/x")
        assert "ACCESS_DENIED" in message
        assert "hidden" not in message
        assert seconds < 20
        message, _ = complaint_about(f"{address}/x")
        assert "HTTP Error 403: Forbidden" in message
        assert "CISRAY_CACHE" not in message


def test_the_web_tells_size_tag_and_time():
    headers = {"ETag": '"v1"', "Last_Modified": "Fri, 20 Nov 2026 10:00:00 GMT"}
    with served(lambda handler: send(handler, b"ACGT", **headers)) as address:
        place = open_place(f"{address}/folder/x.fa")
        (one,) = look(place)
        assert (one.num_bytes, one.version, one.mtime_ns) == (4, '"v1"', 1795168800 * 10**9)
        assert place.name == "x.fa"
        with read(place, "") as stream:
            assert stream.read() == b"ACGT"


def test_the_web_without_headers_is_read_too():
    with served(lambda handler: send(handler, b"ACGT")) as address:
        (one,) = look(open_place(f"{address}/x"))
        assert (one.num_bytes, one.version, one.mtime_ns) == (4, "", None)
