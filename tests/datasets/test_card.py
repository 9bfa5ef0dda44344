import json

import numpy as np
import pytest

from cisray.datasets.card import Track, card_from_dict, card_to_dict, check_tracks, read_card
from cisray.errors import InputError


def test_a_card_comes_back_from_json(make_dataset):
    folder, card = make_dataset({"train": [3], "test": [2]})
    again = read_card(folder)
    assert again == card
    assert again.digest == card.digest
    assert card_from_dict(json.loads(json.dumps(card_to_dict(card))), source=folder) == card


def test_the_digest_tells_cards_apart(make_card):
    assert make_card().digest == make_card().digest
    assert make_card().digest != make_card(counts={"train": 1}).digest


def test_what_is_derived_from_a_card(make_card):
    card = make_card()
    assert card.track_names == ["fwd", "rev", "both"]
    assert card.strand_swap() == [1, 0, 2]
    assert card.target_shape == (4, 3)
    assert card.transforms().scale_first.tolist() == [2.0, 2.0, 1.0]
    assert card.transforms().clip_soft.tolist() == [4.0, 4.0, np.inf]
    assert card.statistics["train"]["fwd"].mean == 2.0
    assert card.statistics["train"]["fwd"].variance == pytest.approx(14 / 3 - 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 1}, r"card\.json: card of schema version 1; this cisray reads version 2"),
        ({"schema_version": None}, "card of schema version None"),
        ({"geometry": {"window_bp": 12, "bin_bp": 5}}, r"not a valid card: geometry: .*not a multiple of bin_bp=5"),
        ({"tracks": [{"name": "a"}]}, r"not a valid card: tracks\.0\.file"),
        ({"colour": "red"}, "not a valid card: colour"),
    ],
)
def test_what_is_not_a_card_is_refused(make_dataset, change, message):
    folder, card = make_dataset({"train": [1]})
    (folder / "card.json").write_text(json.dumps(card_to_dict(card) | change))
    with pytest.raises(InputError, match=message):
        read_card(folder)


def test_a_folder_without_a_card_is_not_a_dataset(make_dataset):
    folder, _ = make_dataset({"train": [1]})
    (folder / "card.json").unlink()
    with pytest.raises(InputError, match=r"no card\.json in it, so this is not a finished dataset"):
        read_card(folder)


def make_track(name="a", **fields):
    return Track(**({"name": name, "file": f"{name}.bw"} | fields))


@pytest.mark.parametrize(
    ("tracks", "message"),
    [
        ((), "wanted at least one"),
        ((make_track("a"), Track(name="a", file="b.bw")), r"two are called a \(a\.bw and b\.bw\)"),
        ((make_track("a", strand_pair="b"), make_track("b")), "b must name a in return"),
        ((make_track("a", strand_pair="c"),), "c must name a in return"),
        ((make_track("a", strand_pair="a"),), "a names a as its strand pair"),
    ],
)
def test_tracks_that_do_not_fit_together_are_refused(tracks, message):
    with pytest.raises(InputError, match=message):
        check_tracks(tracks)
    check_tracks((make_track("a", strand_pair="b"), make_track("b", strand_pair="a"), make_track("c")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"smooth_bp": 4}, "smooth_bp=4; wanted an odd, positive width"),
        ({"smooth_bp": -1}, "smooth_bp=-1"),
        ({"scale": 0.0}, r"scale=0\.0"),
        ({"clip_soft": 0.5}, r"clip_soft=0\.5"),
        ({"clip": 0.5}, r"clip=0\.5"),
        ({"scale": float("nan")}, "scale=nan, .*wanted a positive scale"),
        ({"scale": float("inf")}, "scale=inf"),
        ({"clip_soft": float("nan")}, "clip_soft=nan"),
        ({"clip": float("inf")}, "clip=inf"),
        ({"clip_soft": 8.0, "clip": 6.0}, r"clip no lower than it"),
        ({"name": ".hidden"}, "a name becomes a column and a file"),
        ({"statistic": "mode"}, "Input should be 'sum'"),
    ],
)
def test_track_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):  # pydantic's, as it is built by hand
        make_track(**fields)


def test_a_dataset_without_a_genome_says_what_needed_one(make_card):
    assert make_card().genome_for("anything").name == "toy1"
    with pytest.raises(InputError, match=r"toy: made of measured sequences .* so that scoring is not possible"):
        make_card(genome=None).genome_for("scoring")


def test_a_data_file_lies_in_its_dataset(make_card):
    for path in ("/etc/passwd", "../other/part.parquet"):
        with pytest.raises(ValueError, match="wanted a path inside the dataset"):
            make_card(files=({"path": path, "rows": 1, "sha256": ""},))
