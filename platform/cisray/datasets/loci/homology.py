"""Divide genomes so that what is alike stays together: pieces that are aligned get the same fold in every genome."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cisray.config import STRICT, data_path
from cisray.datasets.loci.dealing import ALWAYS_TRAIN
from cisray.datasets.loci.folds import FoldSpec, Region, Split, break_contigs, deal_roles, piece_draws, rejoin
from cisray.datasets.loci.regions import Spans
from cisray.errors import InputError
from cisray.genome.alignments import Blocks, Extent, read_alignments
from cisray.genome.contigs import map_contigs
from cisray.genome.intervals import Interval, suggest_names
from cisray.genome.ranges import join_ranges

NO_GAPS: Mapping[str, Mapping[str, Spans]] = {}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AlignmentFile:
    """A chain or net file, and which genomes it aligns; both names may be one genome's, for its own duplications."""

    file: str
    """UCSC chain or net file below data_dir, plain or gzip."""
    target: str
    query: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HomologySpec:
    """How genomes are divided together."""

    alignments: tuple[AlignmentFile, ...]
    folds: FoldSpec
    """num_folds, or valid_fraction and test_fraction; break_bp is the length of a piece."""
    min_aligned_bp: int = 1024
    """Two pieces stay together from this many aligned bases on."""
    min_span_bp: int = 100_000
    """Alignments that span less of the target are ignored."""
    min_score: int = 0
    """Alignments of a lower score are ignored."""
    extent: Extent = "span"
    """"span" counts all bases from an alignment's first to its last, "blocks" only aligned ones."""

    def __post_init__(self) -> None:
        if not (self.folds.num_folds or self.folds.valid_fraction):
            raise InputError("homology: folds name regions of one genome; set num_folds, or the two fractions")
        if self.folds.exclude:
            raise InputError("homology: folds.exclude names regions of one genome; give them as gaps of that genome")
        if self.min_aligned_bp < 1 or self.min_span_bp < 0:
            raise InputError(
                f"homology: min_aligned_bp={self.min_aligned_bp}, min_span_bp={self.min_span_bp}; wanted 1 or more "
                "aligned bases and no negative span"
            )

    @property
    def files(self) -> tuple[str, ...]:
        """The input files it names."""
        return tuple(one.file for one in self.alignments)


@plain_dataclass(frozen=True, kw_only=True)
class HomologySummary:
    """What was found while genomes were divided; plain values."""

    num_pieces: dict[str, int]
    """Per genome."""
    num_links: int
    """Pairs of pieces that share enough to stay together."""
    num_components: int
    largest_bp: dict[str, int]
    """Per genome, its bases in the largest component."""
    oversized: list[dict[str, int]]
    """Components larger than the share of a fold in some genome, which are train: their bases in every genome."""
    split_bp: dict[str, dict[Split, int]]
    """Per genome, the bases of every split."""
    skipped: dict[str, int]
    """Per file, alignments on contigs that a genome lacks."""


class HomologousSplit(NamedTuple):
    """Every genome's regions, in genome order, and how they came about."""

    regions: dict[str, list[Region]]
    summary: HomologySummary


class Layer(NamedTuple):
    """Stretches of one contig that do not overlap, in order, and the number that each goes by."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    number: NDArray[np.int64]


class Aligned(NamedTuple):
    """Stretches of two genomes that are aligned, cut so that each lies in one numbered stretch per genome, [M]."""

    target: str
    query: str
    target_number: NDArray[np.int64]
    target_start: NDArray[np.int64]
    target_end: NDArray[np.int64]
    query_number: NDArray[np.int64]
    query_start: NDArray[np.int64]
    query_end: NDArray[np.int64]

    @property
    def aligned_bp(self) -> NDArray[np.int64]:
        """Bases that both sides have, [M]."""
        return np.minimum(self.target_end - self.target_start, self.query_end - self.query_start)


def divide_homologous(
    spec: HomologySpec,
    genomes: Mapping[str, Mapping[str, int]],
    *,
    gaps: Mapping[str, Mapping[str, Spans]] = NO_GAPS,
    data_dir: str | None = None,
) -> HomologousSplit:
    """Divide one or more genomes (name -> contig lengths) together, none of a component's pieces apart.

    Components are dealt so that every genome's bases are balanced. One that is larger than the share of a fold (of
    validation or test, with fractions) in any genome goes to train. One genome's regions do not depend on which of
    the others' datasets are built.

    Raises:
        InputError: an alignment names an unknown genome, its file is damaged or of another assembly, or what is left
            cannot fill the folds.
    """
    pieces = {name: break_contigs(spec.folds, lengths, gaps=gaps.get(name)) for name, lengths in genomes.items()}
    owner = np.repeat(np.arange(len(genomes)), [len(each) for each in pieces.values()])
    widths = np.array([piece.width for each in pieces.values() for piece in each], np.int64)
    first_of = dict(zip(pieces, np.cumsum([0, *map(len, pieces.values())]).tolist(), strict=False))
    skipped: dict[str, int] = {}
    links = _links(spec, genomes, pieces, first_of, skipped=skipped, data_dir=data_dir)
    num_components, component = connected_components(
        coo_array((np.ones(len(links)), links.T), shape=(len(widths), len(widths))), directed=False
    )
    sizes_bp = np.zeros((num_components, len(genomes)), np.int64)
    np.add.at(sizes_bp, (component, owner), widths)
    too_large = (sizes_bp > _largest_share(spec.folds) * sizes_bp.sum(axis=0)).any(axis=1)
    first_piece = np.unique(component, return_index=True)[1]
    draws = np.concatenate([piece_draws(each, seed=spec.folds.seed) for each in pieces.values()])[first_piece]
    roles = _deal_components(spec, sizes_bp, draws, too_large)
    regions = {
        name: rejoin([Region(piece, *roles[component[first_of[name] + i]]) for i, piece in enumerate(of_genome)])
        for name, of_genome in pieces.items()
    }
    largest = sizes_bp[np.argmax((sizes_bp / np.maximum(sizes_bp.sum(axis=0), 1)).sum(axis=1))]
    summary = HomologySummary(
        num_pieces={name: len(each) for name, each in pieces.items()},
        num_links=len(links),
        num_components=int(num_components),
        largest_bp=dict(zip(genomes, largest.tolist(), strict=True)),
        oversized=[dict(zip(genomes, row, strict=True)) for row in sizes_bp[too_large].tolist()],
        split_bp={name: _split_bp(each) for name, each in regions.items()},
        skipped=skipped,
    )
    return HomologousSplit(regions, summary)


def _deal_components(
    spec: HomologySpec, sizes_bp: NDArray[np.int64], draws: NDArray[np.float64], too_large: NDArray[np.bool_]
) -> list[tuple[Split, int]]:
    """Return split and fold of every component; one that is too large is train."""
    # shares are of the whole genome, and what is larger than one abstains from it; folds share what fits in them
    fitting = np.flatnonzero(~too_large) if spec.folds.num_folds else np.arange(len(sizes_bp))
    if np.sum(~too_large) < max(3, spec.folds.num_folds):
        raise InputError(
            f"homology: {len(sizes_bp)} components of aligned pieces, of which {int(too_large.sum())} are larger than "
            f"the share of a fold; raise min_aligned_bp={spec.min_aligned_bp} or min_span_bp={spec.min_span_bp}, or "
            f"lower break_bp={spec.folds.break_bp}"
        )
    roles: list[tuple[Split, int]] = [("train", ALWAYS_TRAIN)] * len(sizes_bp)
    for number, role in zip(fitting.tolist(), deal_roles(spec.folds, sizes_bp[fitting], draws[fitting]), strict=True):
        roles[number] = role
    return roles


def layers(stretches: Sequence[Interval]) -> dict[str, Layer]:
    """Return stretches by contig, each numbered by its place in the list."""
    rows: dict[str, list[tuple[int, int, int]]] = {}
    for number, one in enumerate(stretches):
        rows.setdefault(one.contig, []).append((one.start, one.end, number))
    return {contig: Layer(*np.array(sorted(each), np.int64).T) for contig, each in rows.items()}


def cut_blocks(
    alignments: Iterable[Blocks],
    target: Mapping[str, Layer],
    query: Mapping[str, Layer],
    *,
    lengths: tuple[Mapping[str, int], Mapping[str, int]],
    source: Path,
    skipped: Counter[str],
) -> Iterator[Aligned]:
    """Give what of every alignment lies in a numbered stretch of both genomes; `lengths` are of target and query.

    Where the sides of a block differ in length, positions are taken in proportion. Alignments on contigs that a
    genome lacks are added to `skipped`.

    Raises:
        InputError: a contig has another length than in its genome, or an alignment reaches beyond its end.
    """
    names: tuple[dict[str, str | None], dict[str, str | None]] = ({}, {})
    for blocks in alignments:
        target_name = _our_name(blocks.target, blocks.target_bp, lengths[0], names[0], source=source)
        query_name = _our_name(blocks.query, blocks.query_bp, lengths[1], names[1], source=source)
        if target_name is None or query_name is None:
            skipped["contigs that a genome lacks"] += 1
            continue
        if blocks.query_end.max() > lengths[1][query_name] or blocks.target_end[-1] > lengths[0][target_name]:
            raise InputError(
                f"{source}: an alignment of {blocks.target} with {blocks.query} reaches beyond their ends in the "
                "genomes; another assembly?"
            )
        if target_name in target and query_name in query:
            yield _cut(blocks, target[target_name], query[query_name])._replace(target=target_name, query=query_name)


def _cut(blocks: Blocks, target: Layer, query: Layer) -> Aligned:
    row, target_number, start, end = _clip(blocks.target_start, blocks.target_end, target)
    on_query = _carry(
        (start, end),
        (blocks.target_start[row], blocks.target_end[row]),
        (blocks.query_start[row], blocks.query_end[row]),
        is_reversed=blocks.reversed,
    )
    again, query_number, query_start, query_end = _clip(*on_query, query)
    on_target = _carry(
        (query_start, query_end),
        (on_query[0][again], on_query[1][again]),
        (start[again], end[again]),
        is_reversed=blocks.reversed,
    )
    some = (on_target[1] > on_target[0]) & (query_end > query_start)
    columns = (target_number[again], *on_target, query_number, query_start, query_end)
    return Aligned("", "", *(column[some] for column in columns))


def _clip(
    start: NDArray[np.int64], end: NDArray[np.int64], layer: Layer
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut intervals at the ends of stretches; return of every part its row, stretch number, start and end."""
    first = np.searchsorted(layer.end, start, side="right")
    count = np.maximum(np.searchsorted(layer.start, end, side="left") - first, 0)
    row = np.repeat(np.arange(len(start)), count)
    stretch = join_ranges(first, count)
    return (
        row,
        layer.number[stretch],
        np.maximum(start[row], layer.start[stretch]),
        np.minimum(end[row], layer.end[stretch]),
    )


def _carry(
    part: tuple[NDArray[np.int64], NDArray[np.int64]],
    whole: tuple[NDArray[np.int64], NDArray[np.int64]],
    other: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    is_reversed: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the `part` of the `whole` lies on its `other` side, in proportion."""
    width, other_width = np.maximum(whole[1] - whole[0], 1), other[1] - other[0]
    ahead, after = ((position - whole[0]) * other_width // width for position in part)
    if is_reversed:
        return other[1] - after, other[1] - ahead
    return other[0] + ahead, other[0] + after


def _our_name(
    name: str, contig_bp: int | None, lengths: Mapping[str, int], known: dict[str, str | None], *, source: Path
) -> str | None:
    """Return what the genome calls a contig of the file, None where it lacks it; raise for two that mean one."""
    if name not in known:
        ours = map_contigs({name: contig_bp}, lengths, source=str(source)).names.get(name)
        twin = next((other for other, theirs in known.items() if ours is not None and theirs == ours), None)
        if twin is not None:
            raise InputError(f"{source}: contigs {twin!r} and {name!r} both mean {ours}; rename one there")
        known[name] = ours
    return known[name]


def _links(
    spec: HomologySpec,
    genomes: Mapping[str, Mapping[str, int]],
    pieces: Mapping[str, Sequence[Interval]],
    first_of: Mapping[str, int],
    *,
    skipped: dict[str, int],
    data_dir: str | None,
) -> NDArray[np.int64]:
    """Return the pairs of pieces that share enough, numbered through all genomes, [M, 2]; count into `skipped`."""
    total = sum(map(len, pieces.values()))
    shared: dict[int, int] = {}  # a pair as one number -> aligned bases
    for one in spec.alignments:
        for name in (one.target, one.query):
            if name not in genomes:
                raise InputError(f"{one.file}: aligns genome {name!r}{suggest_names(name, genomes)}")
        path = data_path(one.file, data_dir)
        found = read_alignments(path, extent=spec.extent, min_span_bp=spec.min_span_bp, min_score=spec.min_score)
        lengths = (genomes[one.target], genomes[one.query])
        seen, lacking = False, Counter[str]()
        for aligned in cut_blocks(
            found, layers(pieces[one.target]), layers(pieces[one.query]), lengths=lengths, source=path, skipped=lacking
        ):
            seen = True
            pair = (first_of[one.target] + aligned.target_number) * total + first_of[one.query] + aligned.query_number
            keys, inverse = np.unique(pair, return_inverse=True)
            sums = np.bincount(inverse, weights=aligned.aligned_bp).astype(np.int64)
            for key, bases in zip(keys.tolist(), sums.tolist(), strict=True):
                shared[key] = shared.get(key, 0) + bases
        skipped[one.file] = skipped.get(one.file, 0) + lacking.total()
        if not seen:
            raise InputError(
                f"{path}: no alignment of {one.target} with {one.query} spans {spec.min_span_bp} bp of contigs that "
                "both genomes have; lower min_span_bp, or give the file of these assemblies"
            )
    pairs = np.array(sorted(key for key, bases in shared.items() if bases >= spec.min_aligned_bp), np.int64)
    return np.stack([pairs // total, pairs % total], axis=1)


def _largest_share(folds: FoldSpec) -> float:
    """Return the share of a genome that the largest component may have to be more than train."""
    return 1 / folds.num_folds if folds.num_folds else max(folds.valid_fraction, folds.test_fraction)


def _split_bp(regions: Sequence[Region]) -> dict[Split, int]:
    bases: dict[Split, int] = {"train": 0, "valid": 0, "test": 0}
    for region in regions:
        bases[region.split] += region.interval.width
    return bases
