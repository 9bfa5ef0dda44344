"""Build labelled examples from peaks: windows that have a label, chosen negatives, and every track's labels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT, data_path
from cisray.datasets.card import Genome, Kind, Track
from cisray.datasets.loci.draws import locus_draws
from cisray.datasets.loci.folds import SPLITS, FoldSpec, Split, assign_regions
from cisray.datasets.loci.regions import MaskSpec, load_masks
from cisray.datasets.loci.tiling import WindowSpec
from cisray.datasets.peaks.labels import Labeler, LabelSpec
from cisray.datasets.peaks.negatives import NegativeSpec, Scene, choose_negatives, gc_histogram, unpeaked
from cisray.datasets.peaks.peak_files import PeakFiles, load_peaks
from cisray.datasets.peaks.placement import Ground, Windows, join_spans
from cisray.datasets.peaks.positives import Placed, place_on_peaks, place_tiles
from cisray.datasets.schema import SHUFFLED, Examples, Layout, Loci, make_rows, to_float
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
from cisray.errors import InputError
from cisray.genome.haplotypes import Haplotype
from cisray.genome.intervals import suggest_names
from cisray.genome.shuffle import shuffle_dinucleotides
from cisray.geometry import Geometry

_SHUFFLED_AT_ONCE = 1 << 22  # bases
_NO_TILES = WindowSpec()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PeaksSpec:
    """What a dataset of peaks is made of."""

    genome: GenomeSpec
    geometry: Geometry
    folds: FoldSpec
    windows: WindowSpec = WindowSpec()
    masks: MaskSpec = MaskSpec()
    """Windows that touch the blacklist, or hold too many unmappable bins, are dropped and counted."""
    tracks: tuple[Track, ...] = ()
    """Files of peaks, a track each."""
    tracks_from: str | None = None
    """More such files by a pattern below data_dir, "peaks/*.narrowPeak.gz"; a track is called after its file."""
    strip_suffix: str = ""
    """What is cut from the end of those files' names, beyond the extension."""
    name_column: int | None = None
    """Column of those files, from 1, whose values are the tracks: several tracks per file."""
    labels: LabelSpec = LabelSpec()
    placement: Literal["tile", "peaks"] = "tile"
    """"tile" keeps the windows of a tiling that have a label; "peaks" centres one on each peak."""
    merge_bp: int = 100
    """With "peaks": summits up to so far behind the first of a group share a window, over the middle of their mean."""
    jitter_bp: int = 0
    """Centred windows are shifted by up to this to either side, as locus and seed say; so are accessible negatives."""
    seed: int = 0
    """Seed of that shift."""
    negatives: tuple[NegativeSpec, ...] = ()
    """Ways to choose negatives, one after the other: a later one keeps off what an earlier one chose."""
    shard_rows: int = 4096
    """Windows in one shard of work."""

    def __post_init__(self) -> None:
        if self.merge_bp < 0 or self.jitter_bp < 0 or self.shard_rows < 1:
            raise InputError(
                f"merge_bp={self.merge_bp}, jitter_bp={self.jitter_bp}, shard_rows={self.shard_rows}; "
                "wanted 0 or more bases and at least one row"
            )
        of_tiles = ("stride_bp", "eval_stride_bp", "snap_bp", "sample_fraction", "limit")
        idle = [name for name in of_tiles if getattr(self.windows, name) != getattr(_NO_TILES, name)]
        if self.placement == "peaks" and idle:
            raise InputError(f'windows: {", ".join(idle)}, but placement = "peaks" lays no tiles; remove it')
        kinds = [spec.kind for spec in self.negatives]
        if self.jitter_bp and self.placement == "tile" and "accessible" not in kinds:
            raise InputError(
                f'jitter_bp={self.jitter_bp} shifts centred windows; with placement = "tile" there are none: remove it'
            )
        if kinds.count("shuffle") > 1:
            raise InputError("negatives: shuffle is named twice; raise its ratio instead")
        if self.tracks_from is None and (self.strip_suffix or self.name_column is not None):
            raise InputError("strip_suffix and name_column belong to tracks_from, which is not set")


class PeaksSource:
    """Makes a dataset of labels from files of peaks."""

    kind: Kind = "labels"

    def __init__(self, spec: PeaksSpec, data_dir: str | None) -> None:
        self._spec, self._data_dir = spec, data_dir
        self._genome = open_genome(spec.genome, data_dir)
        # windows are chosen by the bases of the reference, whose coordinates they have
        self._reference = self._genome.reference if isinstance(self._genome, Haplotype) else self._genome
        self._guard_bp = spec.geometry.margin_bp + self._genome.overreach_bp(spec.geometry.stored_bp)
        lengths = self._reference.contig_lengths
        files = None
        if spec.tracks_from is not None:
            files = PeakFiles(pattern=spec.tracks_from, strip_suffix=spec.strip_suffix, name_column=spec.name_column)
        self._peaks = load_peaks(
            spec.tracks,
            files,
            lengths,
            data_dir=data_dir,
            summit_column=spec.labels.summit_column,
            ignore_contigs=spec.genome.ignore_contigs,
        )
        self.tracks = self._peaks.tracks
        self.layout = Layout(spec.geometry, tuple(track.name for track in self.tracks), "u1")
        self.genome: Genome | None = describe_genome(spec.genome, self._genome)
        self.contig_names, self.absent_contigs = self._peaks.contig_names, self._peaks.absent_contigs
        more = [*spec.folds.files, *spec.windows.files, *spec.masks.files]
        more += [name for one in spec.negatives for name in (one.file, one.motif_file) if name is not None]
        self.paths: list[Path] = [*genome_paths(self._genome), *dict.fromkeys(self._peaks.paths)]
        self.paths += [data_path(name, data_dir) for name in dict.fromkeys(more)]
        for one in spec.negatives:
            if one.track is not None and one.track not in self.layout.tracks:
                raise InputError(
                    f"negatives: no track is called {one.track!r}{suggest_names(one.track, self.layout.tracks)}"
                )
        self._labeler = Labeler(self._peaks, spec.labels, spec.geometry)

    def plan(self) -> Plan:
        """Place the positives, choose the negatives, and share both out to shards.

        Raises:
            InputError: a split has no window with a label, or a negative set cannot be looked for.
        """
        scene = self._scene()
        ground = scene.ground
        placed = self._place(scene)
        positives = placed.windows
        taken = join_spans(scene.peaks, ground.spans(positives))
        genomic, shuffled = [positives], []
        facts: dict[str, Any] = self._facts(scene, placed)
        if isinstance(self._genome, Haplotype):
            facts["variants_applied"] = self._genome.counts
        dropped = placed.dropped | {"peaks on ignored contigs": self._peaks.num_ignored}
        for spec in self._spec.negatives:
            chosen = choose_negatives(spec, scene, self._compared(ground, positives, spec), taken=taken)
            if chosen.copy is None:
                genomic.append(chosen.windows)
                taken = join_spans(taken, ground.spans(chosen.windows))
            else:
                shuffled.append(chosen)
                facts["shuffled_rows"] = len(chosen.copy)
            told = dict(chosen.facts)
            if spec.kind == "random":
                told["with_a_label"] = int(self._has_label(ground, chosen.windows).sum())
            facts["negatives"].append(told)
            key = f"{spec.kind} negatives asked for and not found"
            dropped[key] = dropped.get(key, 0) + chosen.facts["short"]
        windows = Windows.of(*(np.concatenate(column) for column in zip(*genomic, strict=True)))
        dropped["negatives that are positives, or chosen twice"] = sum(len(part.start) for part in genomic) - len(
            windows.start
        )
        shards = self._shards(ground, windows)
        for each in shuffled:
            shards += self._shards(ground, each.windows, each.copy)
        shards.sort(key=lambda shard: SPLITS.index(shard.split))  # stable: genome order within a split
        regions: dict[str, list[str]] = {
            split: [str(r.interval) for r in ground.regions if r.split == split] for split in SPLITS
        }
        return Plan(shards, dropped, regions, facts)

    def build(self, values: dict[str, Any]) -> BuiltShard:
        """Make the rows of a planned shard: its bases, shuffled or not, and their labels."""
        geometry = self._spec.geometry
        contig, starts = values["contig"], np.array(values["starts"], np.int64)
        codes = read_windows(self._genome, contig, starts - geometry.margin_bp, geometry.stored_bp)
        if values["copies"] is None:
            targets = to_float(self._labeler.labels(contig, starts).dense())
        else:
            codes = self._shuffle(contig, starts, codes, copies=np.array(values["copies"], np.int64))
            targets = np.zeros((len(starts), *self.layout.target_shape), np.float32)
        loci = Loci(
            contig=[contig] * len(starts),
            start=starts,
            end=starts + geometry.window_bp,
            strand=["+" if values["copies"] is None else SHUFFLED] * len(starts),
            fold=np.full(len(starts), values["fold"], np.int16),
        )
        rows = make_rows(self.layout, loci, Examples(codes, targets))
        return BuiltShard(rows, Tally.of(targets, self.tracks), {})

    def candidates(self, split: Split = "train", *, stride_bp: int | None = None) -> Iterator[tuple[str, NDArray]]:
        """Yield contigs and starts of a split's windows without a peak or a positive, for datasets.peaks.mining.

        Windows that reach over a contig's end are none of them: the BED file of mined loci could not hold them.
        """
        scene = self._scene()
        ground, lengths = scene.ground, self._reference.contig_lengths
        taken = join_spans(scene.peaks, ground.spans(self._place(scene).windows))
        windows = unpeaked(ground, taken=taken, stride_bp=stride_bp, seed=self._spec.seed)
        windows = windows.pick(ground.in_splits([split])[ground.group_of[windows.region]])
        windows = windows.pick(scene.screen(windows)[0])
        for contig, rows in ground.runs(windows):
            start = windows.start[rows]
            yield contig, start[(start >= 0) & (start + self._spec.geometry.window_bp <= lengths[contig])]

    def codes(self, contig: str, starts: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the codes of windows without their margins, uint8 [B, L]."""
        return read_windows(self._genome, contig, starts, self._spec.geometry.window_bp)

    def _scene(self) -> Scene:
        spec, lengths = self._spec, self._reference.contig_lengths
        masks = load_masks(spec.masks, lengths, data_dir=self._data_dir)
        regions = assign_regions(spec.folds, lengths, gaps=masks.gaps, geometry=spec.geometry, data_dir=self._data_dir)
        return Scene(
            ground=Ground(regions, lengths, geometry=spec.geometry, spec=spec.windows, guard_bp=self._guard_bp),
            reference=self._reference,
            masks=masks,
            peaks={contig: self._peaks.spans(contig) for contig in self._peaks.contigs},
            max_n_fraction=spec.windows.max_n_fraction,
            jitter_bp=spec.jitter_bp,
            data_dir=self._data_dir,
        )

    def _place(self, scene: Scene) -> Placed:
        """Place windows, and keep those that are fit for a dataset and have a label."""
        if self._spec.placement == "tile":
            placed = place_tiles(scene, self._spec.windows, guard_bp=self._guard_bp, data_dir=self._data_dir)
        else:
            placed = place_on_peaks(
                scene.ground,
                self._peaks,
                merge_bp=self._spec.merge_bp,
                jitter_bp=self._spec.jitter_bp,
                seed=self._spec.seed,
            )
        ground, windows = scene.ground, placed.windows
        has_label = self._has_label(ground, windows)
        what = "tiled windows" if self._spec.placement == "tile" else "windows on a peak"
        windows = windows.pick(has_label)
        kept, screened, _ = scene.screen(windows)
        dropped = placed.dropped | {f"{what} without a label": int((~has_label).sum())}
        dropped |= {f"labelled {reason}": count for reason, count in screened.items()}
        return Placed(windows.pick(kept), dropped, placed.facts)

    def _has_label(self, ground: Ground, windows: Windows, track: str | None = None) -> NDArray[np.bool_]:
        number = None if track is None else self.layout.tracks.index(track)
        found = np.zeros(len(windows.start), bool)
        for contig, rows in ground.runs(windows):
            found[rows] = self._labeler.labels(contig, windows.start[rows]).positive(number)
        return found

    def _compared(self, ground: Ground, positives: Windows, spec: NegativeSpec) -> Windows:
        """Return the positives that a way to choose negatives looks at."""
        if spec.track is None:
            return positives
        compared = positives.pick(self._has_label(ground, positives, spec.track))
        if not len(compared.start):
            raise InputError(f"negatives: track {spec.track} labels no window, so that none can be chosen for it")
        return compared

    def _facts(self, scene: Scene, placed: Placed) -> dict[str, Any]:
        ground = scene.ground
        per_split = ground.by_split(ground.counts(placed.windows))
        for split in SPLITS:
            if not per_split.get(split):
                reasons = ", ".join(f"{count} {reason}" for reason, count in placed.dropped.items() if count)
                raise InputError(
                    f"the {split} split has no window with a label (left out were {reasons or 'none'}); "
                    "name longer regions in folds, or see labels and windows in the job file"
                )
        gc_fraction = ground.composition(placed.windows, self._reference).gc_fraction
        left_out = {name: dict(counts) for name, counts in scene.masks.left_out.items()}
        return placed.facts | {
            "intervals_on_other_contigs": left_out | placed.facts.get("intervals_on_other_contigs", {}),
            "peaks": self._peaks.num_peaks,
            "positives": per_split,
            "gc_histogram": gc_histogram(gc_fraction).tolist(),
            "kept_from_borders_bp": self._guard_bp,
            "negatives": [],
        }

    def _shards(self, ground: Ground, windows: Windows, copy: NDArray[np.int64] | None = None) -> list[PlannedShard]:
        """Cut the windows of each contig and fold into shards."""
        shards = []
        group = ground.group_of[windows.region]
        for contig, run in ground.contig_rows(windows):
            for number in np.unique(group[run]).tolist():
                rows = run.start + np.flatnonzero(group[run] == number)
                split, fold = ground.groups[number]
                for first in range(0, len(rows), self._spec.shard_rows):
                    part = rows[first : first + self._spec.shard_rows]
                    name = f"part-{quote(contig, safe='')}-{windows.start[part[0]]:010d}"
                    copies = None if copy is None else copy[part].tolist()
                    values = {
                        "contig": contig,
                        "fold": fold,
                        "starts": windows.start[part].tolist(),
                        "copies": copies,
                    }
                    name += "" if copies is None else f"-shuffled{copies[0]}"
                    shards.append(PlannedShard(name, split, len(part), values))
        return shards

    def _shuffle(
        self, contig: str, starts: NDArray[np.int64], codes: NDArray[np.uint8], *, copies: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Shuffle each row by what its locus, its copy's number and the seed decide."""
        (seed,) = [spec.seed for spec in self._spec.negatives if spec.kind == "shuffle"]
        L = codes.shape[1]
        shuffled = np.empty_like(codes)
        at_once = max(1, _SHUFFLED_AT_ONCE // L)
        for number in np.unique(copies).tolist():
            of_copy = np.flatnonzero(copies == number)
            for first in range(0, len(of_copy), at_once):
                rows = of_copy[first : first + at_once]
                bases = starts[rows, None] * L + np.arange(L)  # another number for every base of every row
                draws = locus_draws(f"{contig}\tcopy {number}", bases.ravel(), seed=seed).reshape(bases.shape)
                shuffled[rows] = shuffle_dinucleotides(codes[rows], draws)
        return shuffled
