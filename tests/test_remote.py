import os
import signal
import subprocess
import sys
import threading
import uuid

import pytest

from cisray import remote
from cisray.config import data_path, data_root
from cisray.errors import InputError
from cisray.remote import (
    claim,
    fetch,
    is_sealed,
    join,
    local_path,
    names_below,
    origin_of,
    place_of_out,
    publish,
    take_back,
    uri_of,
)
from killing import wait_for
from object_store import send, served, served_bucket

FETCH = "import sys; from cisray.remote import local_path; print(local_path(sys.argv[1]))"
LAST = ("card.json", "manifest.json", ".plan.json")


@pytest.fixture(scope="module")
def bucket():
    with pytest.MonkeyPatch.context() as patch, served_bucket(patch) as store:
        yield store


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CISRAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def key(request):
    """A place in the bucket that no other test has."""
    return f"{request.node.name.split('[')[0]}-{uuid.uuid4().hex[:6]}"


def content_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("root", "name", "whole"),
    [
        ("/data", "x/y.fa", "/data/x/y.fa"),
        ("/data", "/other/y.fa", "/other/y.fa"),
        ("/data", "s3://b/y.fa", "s3://b/y.fa"),
        ("s3://b/data", "x/y.fa", "s3://b/data/x/y.fa"),
        ("s3://b/data/", "./x//y.fa", "s3://b/data/x/y.fa"),
        ("s3://b/data", "/other/y.fa", "/other/y.fa"),
        ("s3://b/data", "gs://c/y.fa", "gs://c/y.fa"),
    ],
)
def test_names_lie_below_a_root(root, name, whole):
    assert join(root, name) == whole


def test_a_path_stays_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_path("x.fa") == tmp_path / "x.fa"
    assert local_path(f"file://{tmp_path}/x.fa") == tmp_path / "x.fa"
    assert uri_of(tmp_path / "x.fa") is None


def test_a_file_is_fetched_with_its_name_and_time(bucket, cache, key):
    uri = bucket.put(f"{key}/genome.fa.gz", b"ACGT" * 1000)
    path = local_path(uri)
    assert path.read_bytes() == b"ACGT" * 1000
    assert path.name == "genome.fa.gz"
    assert path.is_relative_to(cache)
    assert path.stat().st_mtime_ns % 10**9 == 0  # the store's, in whole seconds
    assert uri_of(path) == uri
    assert not list(cache.rglob("*.tmp"))


def test_what_is_in_the_cache_is_not_fetched_again(bucket, cache, key, monkeypatch):
    uri = bucket.put(f"{key}/x", b"A")
    path = fetch(uri, cache)
    monkeypatch.setattr(remote, "_copy_here", None)
    assert fetch(uri, cache) == path


def test_a_changed_object_is_fetched_anew_by_a_new_process_and_not_within_one(bucket, cache, key):
    uri = bucket.put(f"{key}/x", b"A")
    first = local_path(uri)
    bucket.put(f"{key}/x", b"C")
    assert local_path(uri) == first
    second = fetch(uri, cache)
    assert (first.read_bytes(), second.read_bytes()) == (b"A", b"C")
    assert first.name == second.name


def test_a_folder_is_fetched_whole(bucket, cache, key, tmp_path):
    made = {"card.json": b"{}", "examples/split=train/part-0.parquet": b"1" * 100, "tracks.parquet": b"2"}
    for name, content in made.items():
        bucket.put(f"{key}/dataset/{name}", content)
    folder = local_path(f"s3://bucket/{key}/dataset")
    assert content_of(folder) == made
    assert folder.name == "dataset"
    assert uri_of(folder) == f"s3://bucket/{key}/dataset"
    assert uri_of(folder / "examples/split=train/part-0.parquet") == (
        f"s3://bucket/{key}/dataset/examples/split=train/part-0.parquet"
    )
    assert origin_of(folder / "card.json") == (folder, f"s3://bucket/{key}/dataset")
    bucket.put(f"{key}/dataset/more", b"3")
    assert content_of(fetch(f"s3://bucket/{key}/dataset", cache)) == made | {"more": b"3"}


def test_an_object_whose_name_leads_out_of_its_folder_is_not_written(bucket, cache, key):
    bucket.put(f"{key}/dataset/../../../evil", b"1")
    with pytest.raises(InputError, match=r"'\.\./\.\./\.\./evil' leads out of this folder, and is not read"):
        local_path(f"s3://bucket/{key}/dataset")
    assert not list(cache.parent.rglob("evil"))


def test_inputs_below_a_data_folder_at_a_uri(bucket, cache, key, monkeypatch, tmp_path):
    bucket.put(f"{key}/tracks/x.bw", b"bigWig")
    monkeypatch.setenv("CISRAY_DATA", f"s3://bucket/{key}/")
    assert data_root(None) == f"s3://bucket/{key}"
    assert data_path("tracks/x.bw", None).read_bytes() == b"bigWig"
    (tmp_path / "own.bed").write_text("chr1\t0\t1\n")
    assert data_path(str(tmp_path / "own.bed"), None) == tmp_path / "own.bed"
    assert data_path("own.bed", f"file://{tmp_path}") == tmp_path / "own.bed"
    with pytest.raises(InputError, match=rf"s3://bucket/{key}/tracks/y\.bw: no such object or folder; check the name"):
        data_path("tracks/y.bw", None)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("peaks/*.bed", ["peaks/a.bed", "peaks/b.bed"]),
        ("peaks/**/?.bed*", ["peaks/a.bed", "peaks/b.bed", "peaks/x/c.bed.gz"]),
        ("*.bed", ["top.bed"]),
        ("none/*.bed", []),
    ],
)
def test_a_pattern_finds_below_a_uri_what_it_finds_below_a_path(bucket, key, tmp_path, pattern, found):
    for name in ("peaks/a.bed", "peaks/b.bed", "peaks/x/c.bed.gz", "peaks/a.txt", "top.bed"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        bucket.put(f"{key}/{name}", b"")
    assert names_below(str(tmp_path), pattern) == names_below(f"s3://bucket/{key}", pattern) == found


def test_a_web_server_lists_nothing():
    with pytest.raises(InputError, match=r"https://x\.org/d: a web server does not list its files for '\*\.bed'; name"):
        names_below("https://x.org/d", "*.bed")


def test_a_cache_that_cannot_be_written_is_told(bucket, key, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CISRAY_CACHE", str(tmp_path / "file"))
    uri = bucket.put(f"{key}/x", b"A")
    with pytest.raises(InputError, match=r"/x: cannot be kept in the cache \(.*Not a directory.*CISRAY_CACHE"):
        local_path(uri)


def test_an_object_that_changes_meanwhile_is_not_taken(cache):
    answers = iter([b"AAAA", b"CCCC", b"GGGG"])

    def answer(handler):
        content = next(answers)
        send(handler, content, ETag=content.decode())

    with served(answer) as address, pytest.raises(InputError, match=r"/x: broke off, or has changed while it was fetc"):
        local_path(f"{address}/x")
    assert not list(cache.rglob("x*"))


def test_a_download_that_breaks_off_is_not_taken(cache):
    asked = []

    def answer(handler):
        asked.append(handler.path)
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"A" * 10)

    with served(answer) as address, pytest.raises(InputError, match=r"/x: broke off, or has changed while it was fetc"):
        local_path(f"{address}/x")
    assert len(asked) == 2
    assert not list(cache.rglob("x*"))


def test_two_processes_at_once_fetch_once(cache):
    """Each looks; the first one's download begins when both have; the second one waits for it."""
    lock, both, asked = threading.Lock(), threading.Event(), []

    def answer(handler):
        with lock:
            asked.append(handler.path)
            number = len(asked)
        if number == 2:
            both.wait(60)
        if number == 3:
            both.set()
        send(handler, b"ACGT", ETag="v1")

    with served(answer) as address:
        command = [sys.executable, "-c", FETCH, f"{address}/x.fa"]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        paths = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(paths) == 1
    assert len(asked) == 4  # two looks, one download, and a look whether it has changed
    (path,) = cache.rglob("x.fa")
    assert {str(path)} == paths
    assert path.read_text() == "ACGT"


def test_a_killed_fetch_leaves_nothing_that_is_taken_for_a_file(cache):
    ended, asked = threading.Event(), []

    def answer(handler):
        asked.append(handler.path)
        if len(asked) != 2:
            send(handler, b"A" * 1000, ETag="v1")
            return
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.send_header("ETag", "v1")
        handler.end_headers()
        handler.wfile.write(b"A" * 10)
        handler.wfile.flush()
        ended.wait(60)

    with served(answer) as address:
        process = subprocess.Popen([sys.executable, "-c", FETCH, f"{address}/x.fa"])
        wait_for(lambda: list(cache.rglob("x.fa")), seconds=60)
        process.send_signal(signal.SIGKILL)
        process.wait()
        ended.set()
        (half,) = cache.rglob("x.fa")
        assert half.parent.name.endswith(".tmp")
        path = local_path(f"{address}/x.fa")
    assert path.read_bytes() == b"A" * 1000
    assert list(cache.rglob("x.fa")) == [path]
    assert not list(cache.rglob("*.tmp"))


def test_an_output_at_a_uri_is_made_in_the_cache(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place_of_out("runs/x") == tmp_path / "runs/x"
    assert place_of_out(f"file://{tmp_path}/x") == tmp_path / "x"
    assert place_of_out("s3://bucket/runs/x/") == cache / "outputs/s3/bucket/runs/x"


@pytest.mark.parametrize("out", ["s3://bucket", "https://host/x", "s3://bucket/a/../b"])
def test_an_output_at_no_folder_of_a_store_is_refused(out):
    with pytest.raises(InputError, match=r"^out: .* names no folder that can be written; wanted one, or s3://BUCKET"):
        place_of_out(out)


@pytest.fixture
def made(tmp_path):
    """A finished output."""
    folder = tmp_path / "made"
    (folder / "examples").mkdir(parents=True)
    (folder / "examples/part-0").write_bytes(b"0" * 1000)
    (folder / "examples/part-1").write_bytes(b"1" * 1000)
    (folder / "tracks").write_bytes(b"2")
    (folder / "card.json").write_text("{}")
    (folder / ".plan.json").write_text('{"digest": "mine"}')
    return folder


@pytest.fixture
def written(monkeypatch):
    """Names of what is written to a store, in order."""
    names, write = [], remote.write

    def note(place, name, source):
        names.append(name)
        write(place, name, source)

    monkeypatch.setattr(remote, "write", note)
    return names


def test_what_is_published_ends_with_its_card_and_its_plan(bucket, made, key, written, tmp_path):
    uri = f"s3://bucket/{key}/out"
    assert claim(uri, {"digest": "mine"}, seal=".plan.json") is False
    assert not is_sealed(uri, seal=".plan.json")
    written.clear()
    publish(made, uri, last=LAST)
    assert written[0] == ".publishing.json"  # says which files they are
    assert set(written[1:4]) == {"examples/part-0", "examples/part-1", "tracks"}
    assert written[4:] == ["card.json", ".plan.json"]
    assert bucket.names(f"{key}/out") == content_of(made).keys()
    assert is_sealed(uri, seal=".plan.json")
    written.clear()
    publish(made, uri, last=LAST)
    assert written == []
    take_back(uri, tmp_path / "back")
    assert content_of(tmp_path / "back") == content_of(made)


def test_publishing_goes_on_where_it_was(bucket, made, key, written, monkeypatch, cache):
    uri = f"s3://bucket/{key}/out"
    monkeypatch.setattr(remote, "SMALL_BYTES", 100)
    copy = remote._copy_there

    def fail(place, name, path):
        if name == "tracks":
            raise OSError("connection reset")
        copy(place, name, path)

    monkeypatch.setattr(remote, "_copy_there", fail)
    with pytest.raises(InputError, match=r"/out: cannot be written: connection reset; credentials come from the env"):
        publish(made, uri, last=LAST)
    assert "card.json" not in bucket.names(f"{key}/out")
    with pytest.raises(InputError, match=r"/out: is not all there yet: the job that makes it is at work, or has to be"):
        fetch(uri, cache)
    monkeypatch.setattr(remote, "_copy_there", copy)
    written.clear()
    publish(made, uri, last=LAST)
    assert "examples/part-0" not in written
    assert bucket.names(f"{key}/out") == content_of(made).keys()
    assert content_of(fetch(uri, cache)) == content_of(made)


def test_what_another_machine_made_of_the_same_plan_is_not_mixed_with_what_is_published(
    bucket, made, key, written, monkeypatch, tmp_path
):
    uri = f"s3://bucket/{key}/out"
    monkeypatch.setattr(remote, "SMALL_BYTES", 100)
    with monkeypatch.context() as patch:
        patch.setattr(remote, "delete", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        bucket.put(f"{key}/out/.publishing.json", b'{"plan": {"digest": "mine"}, "files": null}')
        bucket.put(f"{key}/out/examples/part-0", b"9" * 1000)
        with pytest.raises(InputError, match="killed"):
            publish(made, uri, last=LAST)
    assert bucket.names(f"{key}/out") == {".publishing.json", "examples/part-0"}
    publish(made, uri, last=LAST)
    assert bucket.names(f"{key}/out") - {"examples/"} == content_of(made).keys()  # the store's mark of a folder
    assert bucket.get(f"{key}/out/examples/part-0") == b"0" * 1000


def test_what_was_added_to_a_published_output_is_published_too(bucket, made, key, written):
    uri = f"s3://bucket/{key}/out"
    publish(made, uri, last=LAST)
    (made / "scores.vcf.gz").write_bytes(b"more")
    written.clear()
    publish(made, uri, last=LAST)
    assert written == ["scores.vcf.gz"]
    assert bucket.names(f"{key}/out") == content_of(made).keys()
    assert bucket.get(f"{key}/out/scores.vcf.gz") == b"more"  # not packed once more


@pytest.mark.parametrize("there", ["notes.txt", ".plan.json", ".publishing.json"])
def test_what_another_has_put_there_is_not_overwritten(bucket, made, key, there):
    bucket.put(f"{key}/out/{there}", b'{"digest": "other"}')
    with pytest.raises(InputError, match=r"/out: holds something else, not made by this job as it stands now; remove"):
        publish(made, f"s3://bucket/{key}/out", last=LAST)
    assert bucket.names(f"{key}/out") == {there}


def test_a_bucket_that_is_not_there_is_told_before_any_work(bucket):
    with pytest.raises(InputError, match=r"s3://nobucket/out: cannot be written: .*NO_SUCH_BUCKET.*; credentials come"):
        claim("s3://nobucket/out", {"digest": "mine"}, seal=".plan.json")


def test_a_store_that_fsspec_knows_does_too(made, cache):
    uri = f"memory://{uuid.uuid4().hex}/out"
    publish(made, uri, last=LAST)
    assert content_of(fetch(uri, cache)) == content_of(made)
    one = fetch(f"{uri}/examples/part-0", cache)
    assert one.read_bytes() == b"0" * 1000
    assert os.stat(one).st_mtime_ns == os.stat(fetch(f"{uri}/examples/part-0", cache)).st_mtime_ns  # noqa: PTH116
