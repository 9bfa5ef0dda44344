"""The dataset of a condition as one run of a swap experiment uses it: its own tracks, and the rows that it may have."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cisray.baselines.swap_loci import Dealt
from cisray.datasets.card import CARD_NAME, Card, DataFile, Genome, card_to_dict
from cisray.datasets.loci.folds import SPLITS, Split
from cisray.datasets.schema import (
    decode_rows,
    encode_rows,
    example_schema,
    layout_of,
    split_files,
    to_float,
    write_examples,
)
from cisray.datasets.statistics import TRACKS_NAME, Tally, write_tracks
from cisray.errors import InputError
from cisray.files import file_digest, folder_written_whole, write_json
from cisray.genome.bed import merge_intervals


class Source(NamedTuple):
    """What a condition is made of."""

    dataset_dir: Path
    card: Card
    tracks: list[int]
    """Places of its tracks in the dataset."""


def choose_tracks(card: Card, names: Sequence[str], *, source: str) -> list[int]:
    """Return the places of tracks in a dataset; all of them where none is named.

    Raises:
        InputError: one is not there or named twice, or a track of a strand pair is named without the other.
    """
    if len(set(names)) < len(names):
        raise InputError(f"{source}: tracks={list(names)}; wanted each once")
    chosen = list(names) or card.track_names
    for name in chosen:
        if name not in card.track_names:
            raise InputError(f"{source}: no track {name!r} in {card.name}; it has {', '.join(card.track_names[:10])}")
        pair = card.tracks[card.track_names.index(name)].strand_pair
        if pair is not None and pair not in chosen:
            raise InputError(f"{source}: track {name} is one of a strand pair; name {pair} too")
    return [card.track_names.index(name) for name in chosen]


def write_condition(out: Path, source: Source, dealt: Dealt, *, name: str, facts: Mapping[str, Any]) -> Card:
    """Write a condition's dataset, whole or not at all, and return its card; equal rows give equal bytes.

    Raises:
        InputError: a split has no row left.
    """
    for number, name_of_split in enumerate(SPLITS):
        if not (dealt.split == number).any():
            told = "; ".join(f"{count:,} {reason}" for reason, count in dealt.left_out.items())
            raise InputError(
                f"{name}: no row is left for the {name_of_split} split (left out: {told}); divide the loci anew with "
                "loci.num_folds, or build the datasets with the same folds"
            )
    card, tracks = source.card, tuple(source.card.tracks[place] for place in source.tracks)
    tallies: dict[Split, Tally] = {}
    files: list[DataFile] = []
    with folder_written_whole(out) as aside:
        for place, part in enumerate(_read_parts(source, dealt)):
            path = aside / f"examples/split={part.split}/part-{place:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_examples(part.rows, path)
            tally = Tally.of(to_float(part.targets), tracks)
            tallies[part.split] = tallies[part.split] + tally if part.split in tallies else tally
            files.append(DataFile(path=str(path.relative_to(aside)), rows=len(part.rows), sha256=file_digest(path)))
        tallies = {split: tallies[split] for split in SPLITS}
        counts: dict[Split, int] = {split: sum(file.rows for file in files if file.split == split) for split in SPLITS}
        made = dataclasses.replace(
            card,
            name=name,
            tracks=tracks,
            folds=card.folds if dealt.fold is None else None,
            regions=card.regions if _is_unchanged(dealt) else _regions(source, dealt),
            counts=counts,
            dropped=card.dropped | dealt.left_out,
            statistics={split: tally.statistics([track.name for track in tracks]) for split, tally in tallies.items()},
            files=tuple(sorted(files, key=lambda file: SPLITS.index(file.split))),
            facts={"swap": dict(facts)},
            job={"swap": dict(facts), "dataset": card.job},
        )
        write_tracks(aside / TRACKS_NAME, tracks, tallies)
        write_json(aside / CARD_NAME, card_to_dict(made))
    return made


class _Part(NamedTuple):
    """Rows of one file that go to one split."""

    split: Split
    rows: pa.Table
    targets: NDArray[Any]
    """As stored, [B, N, T]."""


def _read_parts(source: Source, dealt: Dealt) -> Iterator[_Part]:
    """Yield the rows of each file, by the split that they go to."""
    card, first = source.card, 0
    tracks = tuple(card.tracks[place] for place in source.tracks)
    layout = layout_of(card)._replace(tracks=tuple(track.name for track in tracks))
    schema = example_schema(layout)
    for old in SPLITS:
        for path in split_files(source.dataset_dir, card, old) if card.counts[old] else []:
            table = pq.ParquetFile(path).read()
            own = slice(first, first + len(table))
            first += len(table)
            for number, split in enumerate(SPLITS):
                chosen = np.flatnonzero(dealt.split[own] == number)
                if not len(chosen):
                    continue
                rows = table.take(chosen)
                targets = decode_rows(rows["target"], card.target_type, card.target_shape)[:, :, source.tracks]
                columns = {name: rows[name] for name in schema.names} | {"target": encode_rows(targets)}
                if dealt.fold is not None:
                    columns["fold"] = pa.array(dealt.fold[own][chosen], pa.int16())
                yield _Part(split, pa.table([columns[name] for name in schema.names], schema=schema), targets)


def _is_unchanged(dealt: Dealt) -> bool:
    return dealt.fold is None and not any(dealt.left_out.values())


def _regions(source: Source, dealt: Dealt) -> dict[str, list[str]]:
    """Return the stretches that each split's windows cover; none without a genome."""
    genome: Genome | None = source.card.genome
    if genome is None:
        return {}
    loci = [
        pq.read_table(path, columns=["contig", "start", "end"])
        for old in SPLITS
        if source.card.counts[old]
        for path in split_files(source.dataset_dir, source.card, old)
    ]
    rows = pa.concat_tables(loci)
    contig, start, end = np.array(rows["contig"].to_pylist()), rows["start"].to_numpy(), rows["end"].to_numpy()
    regions: dict[str, list[str]] = {split: [] for split in SPLITS}
    for number, split in enumerate(SPLITS):
        for name, length in genome.contig_lengths.items():
            own = np.flatnonzero((dealt.split == number) & (contig == name))
            own = own[np.argsort(start[own], kind="stable")]
            merged = merge_intervals(np.maximum(start[own], 0), np.minimum(end[own], length))
            regions[split] += [f"{name}:{first}-{last}" for first, last in zip(*merged, strict=True)]
    return regions
