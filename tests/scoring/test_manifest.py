import json

import pytest

from cisray.errors import InputError
from cisray.scoring.alleles import Status
from cisray.scoring.manifest import (
    CalibrationSource,
    Guard,
    Manifest,
    ModelSource,
    Selection,
    Storage,
    read_manifest,
)

IN_ORDER = [range(4), range(4, 7)]


def test_the_manifest_survives_json(make_scores):
    scores_dir = make_scores(*IN_ORDER)
    manifest = read_manifest(scores_dir)
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict())), source=scores_dir) == manifest
    assert manifest.counts == {Status.OK: 4, Status.STAR: 1, Status.MISSING_ALT: 1, Status.SYMBOLIC: 1}
    assert [(block.rows, block.first, block.last) for block in manifest.blocks] == [(4, 0, 1), (3, 2, 4)]
    written = json.loads((scores_dir / "manifest.json").read_text())
    assert written["schema_version"] == 3
    assert written["scores"] == {"log2fc": "log2(1 + a) - log2(1 + r)", "l2_log2": "norm2"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 1}, "schema version 1, but this cisray reads version 3"),
        ({"colour": "red"}, "not a valid score manifest: colour"),
        ({"rows": 8}, "rows=8, but blocks hold 7 and the counts per status 7"),
        ({"noise_floor": {"log2fc": 0.0}}, "noise floor of"),
        ({"window_policy": "left"}, "not a valid score manifest: window_policy"),
        ({"window_policy": "grid=0"}, "not a valid score manifest: window_policy"),
        (
            {"selection": {"regions": ["1"], "left_out": 3, "file_rows": 9}},
            "rows=7 and left_out=3, but the file has 9 rows",
        ),
        ({"masks": {"sad": "crop"}}, "masks names the score 'sad', which the table does not have"),
        ({"quantiles": ["sad"]}, "quantiles names the score 'sad'"),
        ({"nulls": ["sad"]}, "nulls names the score 'sad'"),
        ({"null": {"number": 1}}, "not a valid score manifest: null"),
        ({"underflows": {"sad": 1}}, "underflows names the score 'sad'"),
        ({"ensemble": [{"uri": "other", "digest": "1"}]}, "the first of the ensemble is not the model"),
        (
            {"genes": [{"name": "0.parquet", "rows": 1, "sha256": "", "first": 0, "last": 0}]},
            "1 files of genes, but no gene score",
        ),
        ({"storage": {"values": "summary", "tracks": ["lung"]}}, "storage names the track 'lung', which is not scored"),
        ({"storage": {"tracks": ["liver"]}}, "storage keeps all tracks, and names 1"),
        ({"storage": {"values": "summary", "tracks": ["liver", "liver"]}}, "storage names a track twice"),
    ],
)
def test_a_wrong_manifest_is_told_with_its_file(make_scores, changes, message):
    path = make_scores(*IN_ORDER) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=rf"manifest\.json: .*{message}"):
        read_manifest(path.parent)


def test_a_block_lies_in_the_folder(make_scores):
    path = make_scores(*IN_ORDER) / "manifest.json"
    path.write_text(path.read_text().replace("0.parquet", "../0.parquet"))
    with pytest.raises(InputError, match="wanted a plain file name"):
        read_manifest(path.parent)


def test_every_setting_survives_json(make_scores):
    first = ModelSource(uri="models:/yeast", version="3", digest="ab12")
    changes = {
        "ensemble": (first, ModelSource(uri="models:/yeast", version="4", digest="ab13")),
        "selection": Selection(regions=("1:1-1000",), samples=("NA12878",), left_out=93, file_rows=100),
        "masks": {"log2fc": "center(501)"},
        "quantiles": ("log2fc",),
        "calibration": CalibrationSource(file="common.parquet", digest="99"),
        "window_policy": "grid=2048",
        "indel_align": "stitch",
        "ref_mismatch": "flip",
        "shifts": (-1, 0, 1),
        "noise_floor": {"log2fc": 1e-6, "l2_log2": None},
        "guard": Guard(recomputed=10, largest_difference=1e-6, tolerance=1e-4),
        "storage": Storage(values="summary", tracks=("heart",), dtype="float16"),
        "underflows": {"l2_log2": 3},
    }
    scores_dir = make_scores(*IN_ORDER, **changes)
    manifest = read_manifest(scores_dir)
    assert {name: getattr(manifest, name) for name in changes} == changes
    assert manifest.models == changes["ensemble"]
    assert manifest.listed_tracks == ("heart",)


def test_one_model_is_all_models(make_scores):
    manifest = read_manifest(make_scores(*IN_ORDER))
    assert manifest.models == (manifest.model,)
    assert manifest.listed_tracks == manifest.tracks == ("liver", "heart")
