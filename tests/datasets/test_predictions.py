import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cisray.datasets.card import Track
from cisray.datasets.predictions import prediction_schema, read_predicted, write_bigwigs
from cisray.datasets.schema import encode_rows
from cisray.errors import InputError
from cisray.genome.tracks import SignalFile
from cisray.geometry import Geometry

# windows of 4 bins of 5 bases between crops of 5: window 100 predicts the bases 105 to 125
GEOMETRY = Geometry(window_bp=30, bin_bp=5, crop_bins=1)
TRACKS = (Track(name="one", file="1.bw"), Track(name="two", file="2.bw"))


@pytest.fixture
def card(make_card):
    return make_card(geometry=GEOMETRY, tracks=TRACKS)


def write_part(folder, card, windows, *, name="part-0"):
    """Write windows (contig, start) whose bin at base b is predicted as b and b + 0.5, and measured twice that."""
    bins = np.array([[start + 5 + 5 * number for number in range(4)] for _, start in windows])
    predicted = np.stack([bins, bins + 0.5], axis=2).astype("<f4")
    measured = 2 * predicted
    measured[:, 1, 0] = np.nan
    columns = [
        pa.array([contig for contig, _ in windows]),
        pa.array([start for _, start in windows]),
        pa.array([start + 30 for _, start in windows]),
        pa.array(["+"] * len(windows)),
        encode_rows(predicted),
        encode_rows(measured),
    ]
    (folder / "predictions").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns, schema=prediction_schema(card)), folder / f"predictions/{name}.parquet")


def test_predictions_come_back_by_contig_in_the_order_of_their_bins(tmp_path, card):
    write_part(tmp_path, card, [("chr2", 100), ("chr1", 60)], name="part-1")
    write_part(tmp_path, card, [("chr1", 20), ("chr1", 0)], name="part-2")
    chr1, chr2 = read_predicted(tmp_path, card)
    assert (chr1.contig, chr2.contig) == ("chr1", "chr2")
    assert chr1.starts.tolist() == [5, 10, 15, 20, 25, 30, 35, 40, 65, 70, 75, 80]
    assert chr2.starts.tolist() == [105, 110, 115, 120]
    for one in (chr1, chr2):
        assert np.array_equal(one.predicted, np.stack([one.starts, one.starts + 0.5], axis=1))
        masked = np.isnan(one.measured[:, 0])
        assert one.starts[masked].tolist() == {"chr1": [10, 30, 70], "chr2": [110]}[one.contig]
        assert np.array_equal(one.measured[~masked], 2 * one.predicted[~masked])


def test_a_row_says_by_itself_what_it_holds(tmp_path, card):
    write_part(tmp_path, card, [("chr1", 60)])
    table = pq.read_table(tmp_path / "predictions/part-0.parquet")
    metadata = table.schema.field("prediction").metadata
    assert metadata[b"tracks"] == b"one\ttwo"
    values = np.frombuffer(table["prediction"][0].as_py(), metadata[b"dtype"].decode())
    assert values.reshape(json.loads(metadata[b"shape"])).tolist() == [[b, b + 0.5] for b in (65, 70, 75, 80)]


def test_a_bigwig_holds_every_bin_over_its_own_bases(tmp_path, card):
    write_part(tmp_path, card, [("chr1", 20), ("chr1", 0), ("chr2", 100)])
    write_bigwigs(tmp_path, card)
    assert sorted(path.name for path in (tmp_path / "bigwig").iterdir()) == [
        "one.measured.bw",
        "one.predicted.bw",
        "two.measured.bw",
        "two.predicted.bw",
    ]
    with SignalFile(tmp_path / "bigwig/two.predicted.bw") as signal:
        assert signal.contig_lengths == card.genome.contig_lengths
        values = signal.values("chr1", 0, 50)
        expected = [np.nan] * 5 + [base // 5 * 5 + 0.5 for base in range(5, 45)] + [np.nan] * 5
        assert np.array_equal(values, np.float32(expected), equal_nan=True)
        assert np.isnan(signal.values("chr2", 0, 105)).all()
    with SignalFile(tmp_path / "bigwig/one.measured.bw") as signal:
        values = signal.values("chr2", 105, 125)
        expected = [210.0] * 5 + [np.nan] * 5 + [230.0] * 5 + [240.0] * 5
        assert np.array_equal(values, np.float32(expected), equal_nan=True)


def test_bins_beyond_the_end_of_a_contig_are_left_out_of_a_bigwig(tmp_path, card):
    write_part(tmp_path, card, [("chr2", 283)])  # bins at 288, 293, 298 and 303 of a contig of 300 bases
    write_bigwigs(tmp_path, card)
    with SignalFile(tmp_path / "bigwig/one.predicted.bw") as signal:
        values = signal.values("chr2", 286, 302)
    expected = [np.nan] * 2 + [288.0] * 5 + [293.0] * 5 + [298.0] * 2 + [np.nan] * 2
    assert np.array_equal(values, np.float32(expected), equal_nan=True)


def test_overlapping_windows_cannot_become_a_bigwig(tmp_path, card):
    write_part(tmp_path, card, [("chr1", 0), ("chr1", 19)])
    with pytest.raises(InputError, match="the windows of chr1 overlap, and a bigWig holds one value per base"):
        write_bigwigs(tmp_path, card)


def test_a_folder_without_predictions_is_refused(tmp_path, card):
    with pytest.raises(InputError, match="no predictions in it; run cisray evaluate again"):
        read_predicted(tmp_path, card)
