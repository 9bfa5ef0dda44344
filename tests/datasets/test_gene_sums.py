import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from cisray.datasets.gene_sums import GeneTable, read_gene_sums, write_gene_sums
from cisray.errors import InputError
from cisray.genome.genes import Gene


def test_sums_are_written_beside_their_genes(tmp_path):
    genes = [
        Gene(f"g{i}", f"n{i}", "chr1", 10 * i, 10 * i + 5, "+", "tRNA", np.array([[10 * i, 10 * i + 5]]))
        for i in (1, 2)
    ]
    random = np.random.default_rng(0)
    sums = GeneTable(*random.gamma(2, 3, (3, 2, 4)).astype("<f4"))
    write_gene_sums(tmp_path / "genes.parquet", genes, sums, tracks=list("abcd"))
    again = read_gene_sums(tmp_path / "genes.parquet", num_tracks=4)
    for read, written in zip(again, sums, strict=True):
        np.testing.assert_array_equal(read, written)
    table = pq.read_table(tmp_path / "genes.parquet")  # as a stranger reads it
    assert table.column_names == [
        *["id", "name", "contig", "start", "end", "strand", "biotype", "prediction", "measured", "covered"]
    ]
    assert table.slice(0, 1).select(range(7)).to_pylist() == [
        {"id": "g1", "name": "n1", "contig": "chr1", "start": 10, "end": 15, "strand": "+", "biotype": "tRNA"}
    ]
    metadata = table.schema.field("measured").metadata
    assert (metadata[b"tracks"], json.loads(metadata[b"shape"])) == (b"a\tb\tc\td", [4])
    values = np.frombuffer(table["measured"][1].as_py(), metadata[b"dtype"].decode())
    np.testing.assert_array_equal(values, sums.measured[1])


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(
        InputError, match=r"genes\.parquet: no such file, though the evaluation measured genes; run cisray"
    ):
        read_gene_sums(tmp_path / "genes.parquet", num_tracks=4)
