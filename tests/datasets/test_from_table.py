import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cisray.config import check_settings
from cisray.datasets.from_table import TableSource, TableSpec
from cisray.datasets.schema import decode_examples
from cisray.errors import InputError

DATA = os.environ.get("CISRAY_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
SHARES = {"valid_fraction": 0.25, "test_fraction": 0.25}


def spec(**settings):
    default = {"files": [{"path": "t.parquet"}], "tracks": [{"column": "value"}], "split": SHARES}
    return check_settings(default | settings, TableSpec, source="job")


@pytest.fixture
def open_table(tmp_path):
    def open_table(table, **settings):
        pq.write_table(pa.table(table), tmp_path / "t.parquet")
        return TableSource(spec(**settings), str(tmp_path))

    return open_table


def random_texts(num, length, seed=0):
    random = np.random.default_rng(seed)
    return ["".join(random.choice(list("ACGT"), length)) for _ in range(num)]


def text_of(codes):
    return "".join("ACGTN"[code] for code in codes)


def built(source):
    """Return every row of a source as a dictionary, by its name."""
    rows = {}
    for shard in source.plan().shards:
        table = source.build(shard.values).rows
        examples = decode_examples(table, source.layout)
        for index, row in enumerate(table.drop_columns(["sequence", "target"]).to_pylist()):
            row |= {"split": shard.split, "codes": examples.codes[index], "target": examples.targets[index]}
            for name in ("present", "covariates", "weights"):
                values = getattr(examples, name)
                row[name] = None if values is None else values[index].tolist()
            rows[row["contig"]] = row
    return rows


def test_rows_lie_on_contigs_of_their_own(open_table):
    texts = random_texts(8, 20)
    source = open_table(
        {"sequence": texts, "value": range(8), "c": range(8), "w": range(8)}, covariates=["c"], weight="w"
    )
    rows = built(source)
    assert list(source.layout.geometry.__dict__.values())[:2] == [20, 20]
    assert source.layout.target_shape == (1, 1)
    assert source.genome is None
    for index, text in enumerate(texts):
        row = rows[f"t.parquet:{index + 1}"]
        assert text_of(row["codes"]) == text
        assert (row["start"], row["end"], row["strand"]) == (0, 20, "+")
        assert row["target"].tolist() == [[index]]
        assert row["covariates"] == [index]
        assert row["weights"] == index
        assert row["fold"] == ["train", "valid", "test"].index(row["split"])
    assert sorted(row["split"] for row in rows.values()) == ["test"] * 2 + ["train"] * 4 + ["valid"] * 2


@pytest.mark.parametrize(
    ("align", "expected"),
    [("left", "GGACTTTNNN"), ("right", "NNNGGACTTT"), ("center", "NGGACTTTNN")],
)
def test_shorter_sequences_are_filled_up_outside_their_flanks(open_table, align, expected):
    texts = ["AC", "ACGTA", "CCCCC", "TGTGT"]
    source = open_table(
        {"sequence": texts, "value": range(4)}, align=align, prefix="GG", suffix="uuu", duplicates={"min_identity": 1}
    )
    rows = built(source)
    assert text_of(rows["t.parquet:1"]["codes"]) == expected
    assert text_of(rows["t.parquet:2"]["codes"]) == "GGACGTATTT"
    assert rows["t.parquet:1"]["end"] == 7


@pytest.mark.parametrize(("align", "expected"), [("left", "ACGTA"), ("right", "TACGG"), ("center", "CGTAC")])
def test_longer_sequences_are_cropped_where_that_is_asked_for(open_table, align, expected):
    table = {"sequence": ["ACGTACGG", *random_texts(7, 3)], "value": range(8)}
    source = open_table(table, align=align, length_bp=7, prefix="C", suffix="T", too_long="crop")
    assert text_of(built(source)["t.parquet:1"]["codes"]) == "C" + expected + "T"
    assert source.plan().facts["cropped sequences"] == 1
    with pytest.raises(InputError, match=r"row 1: 8 bases, and 0 more such sequences; length_bp=7 leaves room for 5"):
        open_table(table, length_bp=7, prefix="C", suffix="T")


def test_rows_of_several_sequences_have_a_mask(open_table):
    texts = random_texts(8, 12)
    sites = [[texts[i], texts[7 - i][:5]] if i % 2 else [texts[i]] for i in range(4)]
    rows = built(open_table({"sequence": sites, "value": range(4)}))
    assert rows["t.parquet:1"]["present"] == [1, 0]
    assert text_of(rows["t.parquet:1"]["codes"][1]) == "N" * 12
    assert rows["t.parquet:2"]["present"] == [1, 1]
    assert text_of(rows["t.parquet:2"]["codes"][1]) == texts[6][:5] + "N" * 7


def test_equal_files_give_equal_bytes_in_any_process_and_shards_are_of_one_fold(open_table):
    table = {"sequence": random_texts(100, 30), "value": range(100)}
    settings = {"split": {"num_folds": 4}, "shard_rows": 10}
    one, other = open_table(table, **settings), open_table(table, **settings)
    plan = one.plan()
    assert plan == other.plan()
    assert len({shard.name for shard in plan.shards}) == len(plan.shards) == 12
    assert sum(shard.num_rows for shard in plan.shards) == 100
    for shard in plan.shards:
        assert one.build(shard.values).rows.equals(other.build(shard.values).rows)
        assert one.build(shard.values).tally.num_bins == shard.num_rows <= 10
    assert {shard.split for shard in plan.shards} == {"train", "valid", "test"}


def test_shuffling_the_rows_of_a_file_gives_each_sequence_the_same_split(open_table):
    base = random_texts(30, 40)
    texts = base + [text[:39] + "A" for text in base[:15]] + base[:5]
    order = np.random.default_rng(1).permutation(len(texts))
    one = built(open_table({"sequence": texts, "value": range(50)}))
    other = built(open_table({"sequence": [texts[i] for i in order], "value": range(50)}))
    of_text = {text_of(row["codes"]): row["split"] for row in one.values()}
    assert {text_of(row["codes"]): row["split"] for row in other.values()} == of_text
    for text in base[:15]:
        assert of_text[text] == of_text[text[:39] + "A"]


def test_labels_are_stored_as_bytes_with_what_is_missing(open_table):
    table = {"sequence": random_texts(8, 20), "value": [0.1, 0.3] * 4, "y": [None] * 8}
    source = open_table(table, kind="labels", tracks=[{"column": "value", "above": 0.2}, {"column": "y"}])
    assert source.layout.target_type == "u1"
    assert built(source)["t.parquet:2"]["target"].tolist() == [[1, 255]]
    assert source.plan().facts["missing measurements"] == 8


def given_split_table():
    texts = random_texts(12, 50)
    near = texts[0][:25] + "A" * 3 + texts[0][28:]
    sets = ["train"] * 6 + ["valid"] * 3 + ["test"] * 3
    table = {"sequence": [*texts, near, texts[1]], "value": range(14), "set": [*sets, "test", "valid"]}
    return table, {"split": {"column": "set", "valid": ["valid"], "test": ["test"]}}


def test_duplicates_across_the_splits_of_a_table_are_refused_and_listed(open_table, tmp_path):
    table, settings = given_split_table()
    message = (
        r"cross the splits of column set; rows of such groups: train 2, valid 1, test 1. The first: "
        r"t.parquet:13 \(test\) and t.parquet:1 \(train\), \d edits; t.parquet:14 \(valid\) and t.parquet:2 \(train\), "
        r"0 edits. Set duplicates.list_path to list all; set duplicates.across_splits to"
    )
    with pytest.raises(InputError, match=message):
        open_table(table, **settings).plan()
    listed = tmp_path / "list.tsv"
    with pytest.raises(InputError, match=r"All stand in .*list.tsv; set duplicates.across"):
        open_table(table, **settings, duplicates={"list_path": str(listed)}).plan()
    assert len(listed.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("across_splits", "counts", "dropped"),
    [("keep", [6, 4, 4], 0), ("group", [8, 3, 3], 0), ("drop_from_train", [4, 4, 4], 2)],
)
def test_duplicates_across_the_splits_of_a_table_are_settled(open_table, across_splits, counts, dropped):
    table, settings = given_split_table()
    source = open_table(table, **settings, duplicates={"across_splits": across_splits})
    plan = source.plan()
    splits = [row["split"] for row in built(source).values()]
    assert [splits.count(split) for split in ("train", "valid", "test")] == counts
    assert plan.dropped["rows of duplicates that cross splits"] == dropped
    across = plan.facts["duplicates across the table's splits"]
    assert across["rows"] == {"train": 2, "valid": 1, "test": 1}
    assert across["rows of equal sequences"] == {"train": 1, "valid": 1, "test": 0}
    assert [record["row"] for record in across["first"]] == ["t.parquet:13", "t.parquet:14"]


def test_constant_flanks_make_nothing_alike(open_table):
    texts = random_texts(8, 20)
    source = open_table({"sequence": texts, "value": range(8)}, prefix="ACGT" * 50)
    assert source.plan().facts["duplicates"]["groups of near-duplicates"] == 0


def test_repeats_are_kept_and_counted_or_made_their_mean(open_table):
    texts = random_texts(6, 30)
    table = {
        "sequence": [*texts, texts[0], texts[0], texts[1]],
        "value": [1, 2, 0, 0, 0, 0, 4, None, 2],
        "w": [1] * 6 + [3, 9, 1],
    }
    table["other"] = [None, 7, 1, 1, 1, 1, 5, 6, None]
    tracks = [{"column": "value"}, {"column": "other"}]
    facts = open_table(table, tracks=tracks).plan().facts
    assert facts["duplicates"]["rows of equal sequences"] == 5
    assert facts["duplicates"]["rows of equal sequences that are measured differently"] == 3
    source = open_table(table, tracks=tracks, weight="w", duplicates={"repeats": "mean"})
    rows = built(source)
    assert len(rows) == 6
    np.testing.assert_allclose(rows["t.parquet:1"]["target"], [[(1 + 3 * 4) / 4, (3 * 5 + 9 * 6) / 12]])
    assert rows["t.parquet:1"]["weights"] == 13
    assert rows["t.parquet:2"]["target"].tolist() == [[2, 7]]
    assert source.plan().facts["rows merged into the mean of their repeats"] == 3


def test_a_row_without_weight_keeps_its_measurement_in_a_mean(open_table):
    texts = random_texts(6, 30)
    table = {"sequence": [*texts, texts[0], texts[1]], "value": range(8), "w": [0, 0, 0, 1, 1, 1, 0, 1]}
    rows = built(open_table(table, weight="w", duplicates={"repeats": "mean"}))
    assert [rows[f"t.parquet:{number}"]["target"].item() for number in (1, 2, 3)] == [3, 7, 2]
    assert [rows[f"t.parquet:{number}"]["weights"] for number in (1, 2, 3)] == [0, 1, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shard_rows": 0}, r"shard_rows=0; wanted a positive number"),
        ({"length_bp": 4, "prefix": "ACGT"}, r"length_bp=4 leaves no base between flanks of 4 bp"),
        ({"prefix": "AC-T"}, r"prefix or suffix holds '-'; wanted letters A, C, G, T, U or N"),
        ({"kind": "labels", "duplicates": {"repeats": "mean"}}, r'repeats = "mean" is for measurements'),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        spec(**settings)


def test_two_tracks_of_one_name_are_refused(open_table):
    with pytest.raises(InputError, match="tracks: two are called value"):
        open_table({"sequence": ["A"], "value": [1]}, tracks=[{"column": "value"}, {"column": "value"}])


def test_a_column_whose_name_no_track_may_have_is_told(open_table):
    table = {"sequence": ["A"], "RNA/DNA": [1]}
    with pytest.raises(InputError, match="tracks: column RNA/DNA: track 'RNA/DNA': a name becomes a column and a file"):
        open_table(table, tracks=[{"column": "RNA/DNA"}])


def real(**settings):
    """Open a table of the data folder; the near-duplicates of large ones have their own benchmark."""
    source = TableSource(spec(**settings), None)
    rows = dict.fromkeys(("train", "valid", "test"), 0)
    plan = source.plan()
    for shard in plan.shards:
        rows[shard.split] += len(source.build(shard.values).rows)
    return source, plan, rows


@needs_data
def test_the_first_rows_of_human_leaders_are_split_as_the_study_does():
    source, plan, rows = real(
        files=[{"path": "mpra/optimus5prime/human_utrs_result.csv.gz"}],
        sequences=["utr"],
        tracks=[{"column": "rl"}],
        limit_rows=25_000,
        split={"valid_fraction": 0.04, "test_fraction": 0.2},
        duplicates={"min_identity": 1},
    )
    assert rows == {"train": 19_000, "valid": 1_000, "test": 5_000}
    assert plan.dropped["rows behind the first limit_rows"] == 25_600
    assert source.layout.geometry.window_bp == 50


@needs_data
def test_native_yeast_leaders_are_aligned_at_their_end_and_weighted():
    source, plan, rows = real(
        files=[{"path": "mpra/cuperus2017_native/Native_UTRs.csv.gz"}],
        sequences=["UTR"],
        id="UTR_name",
        weight="t0",
        where=[{"column": "t0", "at_least": 100}],
        tracks=[{"column": "growth_rate"}],
        align="right",
        split={"num_folds": 5},
    )
    assert sum(rows.values()) == 6_735
    assert plan.dropped["rows that do not meet: t0 at least 100"] == 5_121
    assert plan.facts["duplicates"]["rows of near-duplicates"] == 268
    first = source.build({"fold": 0, "rows": [0]}).rows
    assert (
        text_of(decode_examples(first, source.layout).codes[0]) == "N" * 12 + "AGAGGACGTTTGGTTGAAGCCAACTAGCCACAAGAAAA"
    )
    assert first["weight"].to_pylist() == [317]
    assert first["end"].to_pylist() == [38]


@needs_data
@pytest.mark.parametrize(
    ("promoters", "others", "expected"),
    [
        ("Ecoli_prom", "Ecoli_non_prom", (839, 3000, 81, 0)),
        ("Arabidopsis_tata", "Arabidopsis_non_prom", (1497, 2879, 251, 2)),
    ],
)
def test_classes_in_two_fasta_files_are_labels(promoters, others, expected):
    source, plan, rows = real(
        files=[
            {"path": f"mpra/cnnprom/{promoters}.fa", "values": {"promoter": 1}},
            {"path": f"mpra/cnnprom/{others}.fa", "values": {"promoter": 0}},
        ],
        id="id",
        kind="labels",
        tracks=[{"column": "promoter"}],
        split={"valid_fraction": 0.1, "test_fraction": 0.2},
        duplicates={"min_identity": 1},
    )
    total = sum(source.build(shard.values).tally.total[0] for shard in plan.shards)
    equal = plan.facts["duplicates"]["rows of equal sequences"]
    length = source.layout.geometry.window_bp
    assert (total, sum(rows.values()) - total, length, equal) == expected


@needs_data
def test_the_given_split_of_bacterial_promoters_shares_sequences():
    stem = "mpra/ecoli_promoters/processed_data_endo_tss_lb_model_files_tss_expression_model_format"
    settings = {
        "files": [
            {"path": f"{stem}_{name}_genome_split.txt", "columns": ["sequence", "expression"], "values": {"set": name}}
            for name in ("train", "test")
        ],
        "kind": "labels",
        "tracks": [{"column": "expression", "name": "active", "above": 0.246}],
        "split": {"column": "set", "test": ["test"], "valid_fraction": 0.1},
    }
    with pytest.raises(InputError, match=r"rows of such groups: train 49, valid 0, test 34"):
        TableSource(spec(**settings, duplicates={"min_identity": 1}), None).plan()
    _, plan, rows = real(**settings, duplicates={"min_identity": 1, "across_splits": "drop_from_train"})
    assert rows["test"] == 4_549
    assert plan.dropped["rows of duplicates that cross splits"] == 49
    assert sum(rows.values()) == 17_667 - 49


@needs_data
def test_whole_libraries_of_yeast_promoters_are_held_out():
    folder = Path("mpra/yeast_promoters")
    names = {"SSWM": "meanEL", "Drift": "meanEL.mut", "Native": "meanEL"}
    _, plan, rows = real(
        files=[
            {
                "path": str(folder / f"{name}_testdata{'_defined_media' if name == 'Native' else ''}.csv"),
                "rename": {"expression": column},
                "values": {"library": name},
            }
            for name, column in names.items()
        ],
        sequences=["seq110"],
        id="origID",
        tracks=[{"column": "expression"}],
        split={"column": "library", "valid": ["Drift"], "test": ["Native"]},
        duplicates={"min_identity": 1},
    )
    assert rows == {"train": 10_322, "valid": 2_983, "test": 3_782}
    assert plan.facts["duplicates"]["rows of equal sequences"] == 860
    assert plan.facts["duplicates across the table's splits"]["first"] == []


@needs_data
def test_the_class_in_a_fasta_header_is_a_label():
    source, plan, rows = real(
        files=[
            {
                "path": f"clip/hnRNPC/30000/{name}_sample_0/sequences.fa.gz",
                "header_pattern": r"^(?P<name>\S+);.*class:(?P<bound>[01])",
                "values": {"set": name},
            }
            for name in ("training", "test")
        ],
        id="name",
        kind="labels",
        tracks=[{"column": "bound"}],
        split={"column": "set", "test": ["test"], "valid_fraction": 0.1},
        duplicates={"min_identity": 1, "across_splits": "keep"},
    )
    assert rows == {"train": 27_000, "valid": 3_000, "test": 10_000}
    positive = sum(source.build(s.values).tally.total[0] for s in plan.shards if s.split != "test")
    assert positive == 6_000
    across = plan.facts["duplicates across the table's splits"]["rows of equal sequences"]
    assert across == {"train": 34, "valid": 0, "test": 9}


@needs_data
def test_peaks_and_shuffled_peaks_of_one_factor():
    stem = "tf_binding/encode_chipseq/ELK1_GM12878_ELK1_(1277-1)_Stanford"
    _, plan, rows = real(
        files=[{"path": f"{stem}_{part}.seq.gz", "values": {"set": part}} for part in ("AC", "B")],
        sequences=["seq"],
        id="EventID",
        kind="labels",
        tracks=[{"column": "Bound"}],
        split={"column": "set", "test": ["B"], "valid_fraction": 0.1},
        duplicates={"both_strands": True, "across_splits": "keep"},
    )
    assert rows == {"train": 4_576, "valid": 508, "test": 1_000}
    assert plan.facts["duplicates"]["search"]["found_in_place"] == 1.0


def test_negatives_are_made_of_the_positives_of_the_splits_that_lack_them(open_table):
    texts = random_texts(40, 30)
    table = {"sequence": texts, "value": [1] * 30 + [0] * 10, "part": ["a"] * 30 + ["b"] * 5 + ["b"] * 5}
    table["value"][30:35] = [1] * 5
    settings = {
        "kind": "labels",
        "split": {"column": "part", "train": ["a"], "test": ["b"], "valid_fraction": 0.2},
        "negatives": {"ratio": 2, "splits": ["train", "valid"]},
        "prefix": "GG",
        "shard_rows": 7,
    }
    source = open_table(table, **settings)
    plan, again = source.plan(), open_table(table, **settings).plan()
    assert plan == again
    assert plan.facts["shuffled_rows"] == 60
    assert len({(shard.split, shard.name) for shard in plan.shards}) == len(plan.shards)
    assert [shard.split for shard in plan.shards] == sorted(
        [shard.split for shard in plan.shards], key=["train", "valid", "test"].index
    )
    split_of, negatives = {}, []
    for shard in plan.shards:
        made = source.build(shard.values)
        assert made.dropped == {"shuffled sequences that have no other order": 0}
        assert made.tally.num_bins == len(made.rows) == shard.num_rows
        examples = decode_examples(made.rows, source.layout)
        for index, row in enumerate(made.rows.select(["contig", "strand", "end"]).to_pylist()):
            text = text_of(examples.codes[index])
            assert text.startswith("GG")
            assert row["end"] == 32
            if row["strand"] == ".":
                negatives.append((row["contig"], shard.split, text[2:], examples.targets[index].item()))
            else:
                split_of[row["contig"]] = shard.split
                assert text[2:] == texts[int(row["contig"].split(":")[1]) - 1]
    assert len(split_of) == 40
    assert len(negatives) == len({text for _, _, text, _ in negatives}) == 60
    for name, split, text, label in negatives:
        before = texts[int(name.split(":")[1]) - 1]
        assert split == split_of[name] != "test"
        assert label == 0
        assert text != before
        assert sorted(text) == sorted(before)
    assert sum(split == "valid" for _, split, _, _ in negatives) == 12


def test_negatives_without_labels_are_refused():
    with pytest.raises(InputError, match=r"measurements have none: set kind = \"labels\""):
        spec(negatives={})
