import pytest

from cisray.cli.places import own_folder, shown_place
from cisray.errors import InputError


def test_a_folder_is_found_from_where_the_verb_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert own_folder("runs/x") == tmp_path / "runs/x"
    assert own_folder(tmp_path / "y") == tmp_path / "y"


@pytest.mark.parametrize("out", ["s3://bucket/x", "s3:/bucket/x", "gs://bucket/x", "file:///x"])
def test_a_uri_is_refused_with_or_without_its_second_slash(out):
    with pytest.raises(InputError, match=rf"^out: {out} is a URI, and this verb writes to folders; name a folder, and"):
        own_folder(out)


def test_an_output_is_told_as_it_was_named(tmp_path):
    assert shown_place("s3://bucket/x", tmp_path) == "s3://bucket/x"
    assert shown_place("runs/x", tmp_path) == str(tmp_path)
