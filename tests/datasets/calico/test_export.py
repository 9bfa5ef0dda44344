import dataclasses
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calico_files import write_folder
from cisray.datasets.calico.export import export_calico
from cisray.datasets.calico.targets import read_targets
from cisray.datasets.card import CARD_NAME, DataFile, card_to_dict
from cisray.datasets.from_calico import CalicoSource, CalicoSpec
from cisray.datasets.loci.dealing import ALWAYS_TRAIN
from cisray.datasets.schema import write_examples
from cisray.errors import InputError
from cisray.files import file_digest, write_json
from cisray.genome.bed import read_bed

DATA = os.environ.get("CISRAY_DATA")


@pytest.fixture
def exported(tmp_path):
    """Export a dataset and return the lines of its sequences.bed and its statistics."""

    def export(dataset_dir, **settings):
        export_calico(dataset_dir, tmp_path / "out", **settings)
        lines = (tmp_path / "out/sequences.bed").read_text().splitlines()
        return [line.split("\t") for line in lines], json.loads((tmp_path / "out/statistics.json").read_text())

    return export


def test_files_say_what_the_dataset_is(make_dataset, exported, tmp_path):
    # windows of 12 bases, 2 cut from each end; that number i of a split starts at 8 i
    folder, card = make_dataset({"train": [2, 1], "valid": [1], "test": [2]})
    lines, statistics = exported(folder)
    expected = [("2", "10", "train"), ("10", "18", "train"), ("18", "26", "train"), ("2", "10", "valid")]
    expected += [("2", "10", "test"), ("10", "18", "test")]
    assert lines == [["chr1", *line] for line in expected]
    assert statistics == {
        "num_targets": 3,
        "seq_length": 12,
        "seq_1hot": True,
        "pool_width": 2,
        "crop_bp": 2,
        "target_length": 4,
        "train_seqs": 3,
        "valid_seqs": 1,
        "test_seqs": 2,
    }
    assert read_targets(tmp_path / "out/targets.txt").tracks == card.tracks
    inputs, _ = exported(folder, extent="input")
    assert [(line[1], line[2]) for line in inputs[:3]] == [("0", "12"), ("8", "20"), ("16", "28")]


def test_folds_are_labels_where_they_are_wanted(make_dataset, exported):
    folder, _ = make_dataset({"train": [2], "valid": [1], "test": [1]})
    lines, statistics = exported(folder, labels="fold")
    assert {line[3] for line in lines} == {"fold0"}
    assert statistics["fold0_seqs"] == 4
    assert "train_seqs" not in statistics


def rewrite(folder, card, change):
    """Change the columns of a dataset's rows."""
    for file in card.files:
        write_examples(change(pq.ParquetFile(folder / file.path).read()), folder / file.path)


def set_column(name, value):
    def change(table):
        field = table.schema.field(name)
        return table.set_column(table.schema.names.index(name), field, pa.array([value] * len(table), field.type))

    return change


def test_what_is_in_no_fold_is_train(make_dataset, exported):
    folder, card = make_dataset({"train": [2], "valid": [1], "test": [1]})
    rewrite(folder, dataclasses.replace(card, files=card.files[:1]), set_column("fold", ALWAYS_TRAIN))
    lines, statistics = exported(folder, labels="fold")
    assert [line[3] for line in lines] == ["train", "train", "fold0", "fold0"]
    assert statistics["train_seqs"] == statistics["fold0_seqs"] == 2


def test_rows_on_the_minus_strand_keep_it(make_dataset, exported, tmp_path):
    folder, card = make_dataset({"train": [1]})
    rewrite(folder, card, set_column("strand", "-"))
    lines, _ = exported(folder)
    assert lines == [["chr1", "2", "10", "train", "0", "-"]]
    assert len(read_bed(tmp_path / "out/sequences.bed").columns) == 3


def test_rows_that_lie_nowhere_are_refused(make_dataset, exported, tmp_path):
    folder, card = make_dataset({"train": [1]})
    rewrite(folder, card, set_column("strand", "."))
    with pytest.raises(InputError, match=r"row made of chr1:0-12 is shuffled and lies on no strand.*build it without"):
        exported(folder)
    write_json(folder / CARD_NAME, card_to_dict(dataclasses.replace(card, kind="measurements", genome=None)))
    with pytest.raises(InputError, match="rows of a table lie on no genome, which Calico's files want; give another"):
        exported(folder)
    assert not (tmp_path / "out").exists()


def test_a_window_that_starts_before_its_contig_is_written_as_target_alone(make_dataset, exported, tmp_path):
    folder, card = make_dataset({"train": [1]})
    rewrite(folder, card, set_column("start", -2))
    with pytest.raises(InputError, match=r'the window chr1:-2-12 starts before its contig.*write the extent "target"'):
        exported(folder, extent="input")
    assert not (tmp_path / "out").exists()
    assert exported(folder)[0][0][1] == "0"


def test_a_folder_of_other_files_is_left_alone(make_dataset, exported, tmp_path):
    folder, _ = make_dataset({"train": [1]})
    exported(folder)
    exported(folder)
    (tmp_path / "out/notes.txt").touch()
    with pytest.raises(InputError, match=r"out: holds notes\.txt, which would go; wanted a new folder"):
        exported(folder)
    with pytest.raises(InputError, match=r"no card\.json in it"):
        export_calico(tmp_path / "out", tmp_path / "more")
    assert not (tmp_path / "more").exists()


def import_dataset(source, out, make_card):
    """Write a source's rows as a dataset."""
    files, counts = [], {"train": 0, "valid": 0, "test": 0}
    plan = source.plan()
    for shard in plan.shards:
        path = f"examples/split={shard.split}/{shard.name}.parquet"
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        write_examples(source.build(shard.values).rows, out / path)
        files.append(DataFile(path=path, rows=shard.num_rows, sha256=file_digest(out / path)))
        counts[shard.split] += shard.num_rows
    card = make_card(
        genome=None,
        geometry=source.layout.geometry,
        tracks=source.tracks,
        target_type="<f2",
        counts=counts,
        files=tuple(files),
    )
    write_json(out / CARD_NAME, card_to_dict(card))


def assert_same_files(made, shipped):
    for name in ("targets.txt", "sequences.bed"):
        assert (made / name).read_text() == (shipped / name).read_text()
    assert json.loads((made / "statistics.json").read_text()) == json.loads((shipped / "statistics.json").read_text())


@pytest.mark.parametrize("extent", ["target", "input"])
def test_what_is_imported_is_exported_alike(tmp_path, make_card, extent):
    write_folder(tmp_path / "data", extent=extent)
    import_dataset(CalicoSource(CalicoSpec(folder="data"), str(tmp_path)), tmp_path / "dataset", make_card)
    export_calico(tmp_path / "dataset", tmp_path / "out", extent=extent)
    assert_same_files(tmp_path / "out", tmp_path / "data")


@pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
def test_a_shipped_dataset_is_exported_as_it_was_shipped(tmp_path, make_card):
    import_dataset(CalicoSource(CalicoSpec(folder="human_tiny/hg38"), DATA), tmp_path / "dataset", make_card)
    export_calico(tmp_path / "dataset", tmp_path / "out")
    assert_same_files(tmp_path / "out", Path(DATA, "human_tiny/hg38"))
