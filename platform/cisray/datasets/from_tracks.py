"""Build examples from signal tracks: the bases of a shard's windows, and every track's bins over them."""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from cisray.config import STRICT, data_path
from cisray.datasets.calico.targets import AS_WRITTEN, Relocation, read_targets
from cisray.datasets.card import Genome, Inputs, Kind, TargetType, Track, check_tracks
from cisray.datasets.loci.folds import SPLITS, FoldSpec, Region, Split, assign_regions
from cisray.datasets.loci.leakage import SketchSpec, read_across, shared_sequence
from cisray.datasets.loci.regions import MaskSpec, load_masks
from cisray.datasets.loci.tiling import Shard, WindowSpec, tile
from cisray.datasets.schema import Examples, Layout, Loci, make_rows
from cisray.datasets.source import (
    BuiltShard,
    GenomeSpec,
    Plan,
    PlannedShard,
    describe_genome,
    genome_paths,
    open_genome,
    read_windows,
)
from cisray.datasets.statistics import Tally
from cisray.datasets.transforms import Order
from cisray.datasets.window_signal import NO_MASKING, Masking, OpenTrack, Part, lower_unmappable, read_tracks
from cisray.errors import InputError
from cisray.genome.bigwig import check_file, is_bigwig
from cisray.genome.contigs import map_contigs
from cisray.genome.haplotypes import Haplotype
from cisray.genome.reference import Reference
from cisray.genome.sequence import UNKNOWN
from cisray.genome.tracks import open_signal
from cisray.geometry import Geometry

TYPE_OF: dict[str, TargetType] = {"float32": "<f4", "float16": "<f2"}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TracksSpec:
    """A genome, its tracks, and how windows of both become rows."""

    genome: GenomeSpec
    geometry: Geometry
    folds: FoldSpec | None = None
    """How the genome is divided; None only where several genomes are divided together."""
    windows: WindowSpec = WindowSpec()
    masks: MaskSpec = MaskSpec()
    tracks: tuple[Track, ...] = ()
    targets: str | None = None
    """A targets.txt below data_dir, in place of tracks."""
    relocate: Relocation = AS_WRITTEN
    """Where the files that the targets.txt names lie here."""
    targets_order: Order = "new"
    """The order of the transforms of the targets.txt."""
    channels: tuple[Track, ...] = ()
    """Signal that a model reads beside the bases."""
    channel_bp: int = 1
    """Bases per value of a channel; the window and the margin must be multiples of it."""
    store: Literal["float32", "float16"] = "float32"
    """float16 halves a dataset; a target beyond it is refused."""
    leakage: SketchSpec | None = None
    """If set, the card tells how much sequence splits share, which takes one more pass over the genome."""

    def __post_init__(self) -> None:
        if bool(self.tracks) == (self.targets is not None):
            raise InputError("tracks: list them as [[tracks]], or name a targets.txt as targets, one of the two")
        if self.tracks:
            check_tracks(self.tracks)
        if self.targets is None and (self.relocate != AS_WRITTEN or self.targets_order != "new"):
            raise InputError(
                "relocate and targets_order belong to a targets.txt; name it as targets, or leave them out"
            )
        if self.channels:
            check_tracks(self.channels)
        if (
            self.channel_bp < 1
            or self.geometry.window_bp % self.channel_bp
            or self.geometry.margin_bp % self.channel_bp
        ):
            raise InputError(
                f"channel_bp={self.channel_bp}; wanted a length that divides window_bp={self.geometry.window_bp} and "
                f"margin_bp={self.geometry.margin_bp}"
            )


class TracksSource:
    """The opened genome and tracks of a job, every contig accounted for; see datasets.source."""

    kind: Kind = "coverage"

    def __init__(self, spec: TracksSpec, data_dir: str | None, regions: Sequence[Region] | None = None) -> None:
        """Open the inputs; `regions` are those of a genome that was divided together with others."""
        self._spec, self._data_dir, self._regions = spec, data_dir, regions
        self.reference = open_genome(spec.genome, data_dir)
        self.genome: Genome | None = describe_genome(spec.genome, self.reference)
        self.tracks = _read_tracks(spec, data_dir)
        self.sources = [self._open(track) for track in self.tracks]
        self._channels = [self._open(track) for track in spec.channels]
        inputs = Inputs(channels=spec.channels, channel_bp=spec.channel_bp)
        self.layout = Layout(spec.geometry, tuple(track.name for track in self.tracks), TYPE_OF[spec.store], inputs)
        self._masks = load_masks(spec.masks, self.reference.contig_lengths, data_dir=data_dir)
        opened = [*self.sources, *self._channels]
        folds = () if spec.folds is None else spec.folds.files
        named = (*folds, *spec.windows.files, *spec.masks.files)
        self.paths: list[Path] = [
            *genome_paths(self.reference),
            *([] if spec.targets is None else [data_path(spec.targets, data_dir)]),
            *(one.signal.path for one in opened),
            *(data_path(name, data_dir) for name in named),
        ]
        self.contig_names = {
            one.track.name: {foreign: ours for ours, foreign in one.foreign_names.items() if foreign != ours}
            for one in opened
        }
        self.absent_contigs = {
            one.track.name: [contig for contig in self.reference.contig_lengths if contig not in one.foreign_names]
            for one in opened
        }

    def _open(self, track: Track) -> OpenTrack:
        path = data_path(track.file, self._data_dir)
        signal = open_signal(path)
        ignored = self._spec.genome.ignore_contigs
        names = map_contigs(signal.contig_lengths, self.reference.contig_lengths, source=str(path), ignore=ignored)
        if names.unmatched:
            fasta = data_path(self._spec.genome.fasta, self._data_dir)
            raise InputError(
                f"{path}: holds contig {', '.join(names.unmatched[:5])} which {fasta} lacks; "
                "use the FASTA of the track's own assembly, or list the contig in genome.ignore_contigs"
            )
        lengths = {foreign: self.reference.contig_lengths[ours] for foreign, ours in names.names.items()}
        signal.check_lengths(lengths)
        return OpenTrack(track, signal, {ours: foreign for foreign, ours in names.names.items()}, lengths)

    def plan(self) -> Plan:
        """Check the tracks' files in full, lay windows over the folds' regions and group them into shards."""
        with ThreadPoolExecutor() as threads:
            list(threads.map(_check_whole, {one.signal.path for one in (*self.sources, *self._channels)}))
        spec, lengths = self._spec, self.reference.contig_lengths
        regions = self._assigned()
        # a running mean reaches across a border: a track's from its windows, a channel's from what they store
        guard_bp = max(track.smooth_bp // 2 for track in self.tracks)
        guard_bp = max([guard_bp, *(spec.geometry.margin_bp + each.smooth_bp // 2 for each in spec.channels)])
        guard_bp = max(guard_bp, spec.geometry.margin_bp + self.reference.overreach_bp(spec.geometry.stored_bp))
        tiling = tile(
            regions,
            lengths,
            geometry=spec.geometry,
            spec=spec.windows,
            guard_bp=guard_bp,
            masks=self._masks,
            data_dir=self._data_dir,
        )
        left_out = dict(self._masks.left_out) | ({"limit": tiling.limit_left_out} if tiling.limit_left_out else {})
        facts: dict[str, Any] = {"intervals_on_other_contigs": {name: dict(each) for name, each in left_out.items()}}
        if all(region.starts is None for region in regions):  # listed windows lie where they are listed
            facts["kept_from_borders_bp"] = guard_bp
        if isinstance(self.reference, Haplotype):
            facts["variants_applied"] = self.reference.counts
        if spec.leakage is not None:
            shared = shared_sequence(regions, self.reference.codes, spec=spec.leakage)
            facts["leakage"] = {"shared_sequence": dataclasses.asdict(shared)}
        read = read_across(tiling.shards, regions, spec.geometry)
        facts["read_across_borders"] = [dataclasses.asdict(one) for one in read]
        return Plan(
            shards=[
                PlannedShard(shard.name, shard.split, shard.num_windows, shard._asdict())
                for shard in sorted(tiling.shards, key=lambda shard: SPLITS.index(shard.split))  # else genome order
            ],
            dropped=count_dropped(tiling.dropped, tiling.uncovered_bp, tiling.unassigned_bp),
            regions={split: [str(r.interval) for r in regions if r.split == split] for split in SPLITS},
            facts=facts,
        )

    def _assigned(self) -> list[Region]:
        if self._regions is not None:
            return list(self._regions)
        if self._spec.folds is None:
            raise InputError("folds: missing; say which regions validate and test, or how they are to be chosen")
        return assign_regions(
            self._spec.folds,
            self.reference.contig_lengths,
            gaps=self._masks.gaps,
            geometry=self._spec.geometry,
            data_dir=self._data_dir,
        )

    def build(self, values: dict[str, Any]) -> BuiltShard:
        """Make the rows of a planned shard."""
        return build_shard(
            Shard(**values),
            self.reference,
            self.sources,
            layout=self.layout,
            masking=Masking(self._spec.masks, self._masks),
            max_n_fraction=self._spec.windows.max_n_fraction,
            channels=self._channels,
        )


def _check_whole(path: Path) -> None:
    """Raise InputError where a bigWig is damaged anywhere in its index; a text file was read in full when opened."""
    if is_bigwig(path):
        check_file(path)


def _read_tracks(spec: TracksSpec, data_dir: str | None) -> tuple[Track, ...]:
    """Return the tracks of a job, listed in it or in its targets.txt."""
    if spec.targets is None:
        return spec.tracks
    tracks = read_targets(data_path(spec.targets, data_dir), relocate=spec.relocate, order=spec.targets_order).tracks
    check_tracks(tracks)
    return tracks


def count_dropped(
    dropped: Mapping[Split, Mapping[str, int]], uncovered_bp: Mapping[Split, int], unassigned_bp: int
) -> dict[str, int]:
    """Return what a tiling leaves out as one table of counts by reason."""
    windows = {
        f"{split} windows {reason}": count for split, of_split in dropped.items() for reason, count in of_split.items()
    }
    bases = {f"{split} bases under no window": count for split, count in uncovered_bp.items()}
    return windows | bases | {"bases in no split": unassigned_bp}


def build_shard(
    shard: Shard,
    reference: Reference | Haplotype,
    sources: Sequence[OpenTrack],
    *,
    layout: Layout,
    max_n_fraction: float,
    masking: Masking = NO_MASKING,
    channels: Sequence[OpenTrack] = (),
) -> BuiltShard:
    """Read the shard's bases and signal once, cut them into windows, and drop the ones that say nothing."""
    geometry = layout.geometry
    starts = np.array(shard.starts)
    codes = read_windows(reference, shard.contig, starts - geometry.margin_bp, geometry.stored_bp)
    margin = geometry.margin_bp
    # what a padded window has beyond its contig is no base that could not be read
    contig_bp = reference.contig_lengths[shard.contig]
    beyond_bp = np.maximum(0, -starts) + np.maximum(0, starts + geometry.window_bp - contig_bp)
    unknown_bp = (codes[:, margin : margin + geometry.window_bp] == UNKNOWN).sum(axis=1) - beyond_bp
    n_fraction = unknown_bp / geometry.window_bp
    predicted = Part(geometry.crop_bp, geometry.target_bp, geometry.bin_bp, geometry.window_bp)
    targets = read_tracks(sources, shard.contig, starts, part=predicted, masking=masking)
    unknown = n_fraction > max_n_fraction
    empty = ~unknown & np.isnan(targets).all(axis=(1, 2))
    kept = ~(unknown | empty)
    codes, targets, starts = codes[kept], targets[kept], starts[kept]
    lowered = lower_unmappable(targets, shard.contig, starts, masking=masking, geometry=geometry)
    stored = Part(-margin, geometry.stored_bp, layout.inputs.channel_bp, geometry.window_bp, signed=True)
    loci = Loci(
        contig=[shard.contig] * len(starts),
        start=starts,
        end=starts + geometry.window_bp,
        strand=["+"] * len(starts),
        fold=np.full(len(starts), shard.fold),
    )
    read = None
    if channels:
        read = read_tracks(channels, shard.contig, starts, part=stored, masking=masking)
    tracks = [source.track for source in sources]
    dropped = {
        "windows with too many N": int(unknown.sum()),
        "windows without data in any track": int(empty.sum()),
        "unmappable bins lowered to their window's quantile": lowered,
    }
    rows = make_rows(layout, loci, Examples(codes, targets, channels=read))
    return BuiltShard(rows, Tally.of(targets, tracks), dropped)
