"""What the bins of each gene sum up to, predicted and measured, as a table beside an evaluation's predictions.

genes.parquet: id, name, contig, start, end, strand, biotype; prediction, measured and covered: little-endian float32
[T], sums over the bins of the gene on the natural scale, and the share of its bases that lies in bins with data
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cisray.datasets.schema import decode_rows, encode_rows
from cisray.errors import InputError
from cisray.files import written_whole
from cisray.genome.genes import Gene

GENES_NAME = "genes.parquet"
_OF_GENE = ("id", "name", "contig", "start", "end", "strand", "biotype")
_ARRAYS = ("prediction", "measured", "covered")


class GeneTable(NamedTuple):
    """The sums of genes, one row per gene in the genome's order."""

    prediction: NDArray[np.float32]
    """[G, T]"""
    measured: NDArray[np.float32]
    """[G, T]"""
    covered: NDArray[np.float32]
    """Share of the gene's bases in bins with data, [G, T]."""


def write_gene_sums(path: Path, genes: Sequence[Gene], sums: GeneTable, *, tracks: Sequence[str]) -> None:
    """Write genes and their sums as one Parquet file, whole or not at all."""
    metadata = {"dtype": "<f4", "shape": f"[{len(tracks)}]", "tracks": "\t".join(tracks)}
    columns = {name: pa.array([getattr(gene, name) for gene in genes]) for name in _OF_GENE}
    arrays = {name: encode_rows(np.ascontiguousarray(getattr(sums, name), "<f4")) for name in _ARRAYS}
    table = pa.table(columns | arrays)
    fields = [field.with_metadata(metadata) if field.name in _ARRAYS else field for field in table.schema]
    with written_whole(path) as aside:
        pq.write_table(table.cast(pa.schema(fields)), aside, compression="zstd", use_dictionary=False)


def read_gene_sums(path: Path, *, num_tracks: int) -> GeneTable:
    """Read the sums of all genes."""
    if not path.exists():
        raise InputError(f"{path}: no such file, though the evaluation measured genes; run cisray evaluate again")
    table = pq.read_table(path)
    return GeneTable(*(decode_rows(table[name], "<f4", (num_tracks,)) for name in _ARRAYS))
