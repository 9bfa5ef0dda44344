"""How much faster are variants scored than by full forwards of each, and does one find the same?

Parts `enformer`, `basenji2`, `basset` and `bpnet`: `scoring.engine` against two full forwards per variant, batched and
compiled, in float32, at 1, 4, 16 and 128 variants per window; networks of full length and depth, Enformer at half and
Basenji2 at a quarter of its width. Full forwards cost a variant the same however many share its window: their rate is
measured once. Enformer is compiled for neither, and its times are put together from that of a reference alone and that
of one batch of alternates.

`flop_ratio` is what counting the operations of both gives, convolutions being made anew wherever a variant changes what
comes out of them. The engine makes fewer where it convolves differences: `own_flop_ratio` counts what it does.
Differences are shares of the largest score. Part `saturation`: every base and every other letter of 100 bp in the
middle of a BPNet window, likewise. A part that fails is told, and the others go on.
"""

import traceback
from functools import partial

import torch
from _scoring import (
    PER_WINDOW,
    Case,
    FullForwards,
    count_flop,
    differences,
    exhaust,
    some_windows,
    time_per_variant,
    variants_of,
)
from _table import Options, finish, interleave, print_table, read_options

from cisray.geometry import Geometry
from cisray.models.basenji2 import Basenji2Config
from cisray.models.basset import BassetConfig
from cisray.models.bpnet import BPNetConfig
from cisray.models.enformer import EnformerConfig
from cisray.scoring.saturation import saturate

CASES = (
    Case(
        name="enformer",
        config=EnformerConfig(channels=768),
        geometry=Geometry(window_bp=196_608, bin_bp=128, crop_bins=320),
        num_tracks=5313,
        mask="center(501)",
        batch_size=8,
        full_batch=2,
        is_slow=True,
    ),
    Case(
        name="basenji2",
        config=Basenji2Config(stem_channels=72, channels=192, dilated_channels=96, head_channels=384),
        geometry=Geometry(window_bp=131_072, bin_bp=128, crop_bins=64),
        num_tracks=5313,
        mask="center(501)",
        batch_size=16,
        full_batch=2,
    ),
    Case(
        name="basset",
        config=BassetConfig(),
        geometry=Geometry(window_bp=1000, bin_bp=200, crop_bins=2),
        num_tracks=164,
        mask="crop",
        batch_size=32,
        full_batch=8,
    ),
    Case(
        name="bpnet",
        config=BPNetConfig(),
        geometry=Geometry(window_bp=2000, bin_bp=1),
        num_tracks=8,
        mask="center(501)",
        batch_size=32,
        full_batch=8,
    ),
)
MUTATED_BP = 100


def compare_engine(case: Case, options: Options) -> dict[str, float]:
    """Time the engine and full forwards, and hold their scores against each other."""
    network = case.build(torch.device("cpu"))
    flop = count_flop(case, network)
    full = FullForwards(case, network, compiled=not case.is_slow)
    engine = case.engine(network, compiled=not case.is_slow)
    seconds = time_per_variant(case, engine, full, options)
    full_s = seconds[0]
    rows, figures = [], {"full_forwards.variants_per_s": 1 / full_s}
    for per_window in PER_WINDOW:
        rate, ratio = 1 / seconds[per_window], full_s / seconds[per_window]
        counted, own = flop.ratio(per_window, anew=True), flop.ratio(per_window, anew=False)
        rows.append([f"{per_window}", f"{rate:.3g}", f"{ratio:.2f}", f"{counted:.2f}", f"{ratio / counted:.0%}"])
        rows[-1].append(f"{own:.2f}")
        figures |= {
            f"{per_window}_per_window.variants_per_s": rate,
            f"{per_window}_per_window.ratio": ratio,
            f"{per_window}_per_window.flop_ratio": counted,
            f"{per_window}_per_window.own_flop_ratio": own,
        }
    title = f"{case.name}: the engine against two full forwards per variant, {1 / full_s:.3g} variants/s"
    print_table(title, ["variants per window", "variants/s", "ratio", "flop ratio", "share", "own"], rows)
    found = differences(case, engine, full, variants=1 if case.is_slow else 16)
    found |= {f"{name}.noise_floor": floor for name, floor in engine.noise_floor.items()}
    for name, value in found.items():
        print(f"  {name}: {value:.1e}")
    return {f"{case.name}.{key}": value for key, value in (figures | found).items()}


def compare_saturation(case: Case, options: Options) -> dict[str, float]:
    """Time the saturation mutagenesis of the middle of a window."""
    network = case.build(torch.device("cpu"))
    full, engine = FullForwards(case, network, compiled=True), case.engine(network, compiled=True)
    (window,) = some_windows(case, per_window=1, count=1)
    middle = case.geometry.window_bp // 2
    masks = window.edits[0].masks
    saturated = saturate(window, first=middle, stop=middle + MUTATED_BP, masks_at=lambda _: masks)
    some = variants_of([saturated])[: max(1, case.full_batch // 2)]
    runs = {"engine": partial(exhaust, engine, [saturated]), "full": partial(full.score, some)}
    seconds = {name: min(each) for name, each in interleave(runs, repeats=options.repeats).items()}
    number = len(saturated.edits)
    ratio = seconds["full"] / len(some) * number / seconds["engine"]
    print(f"\n{case.name}: {number} alternates in {seconds['engine']:.2f} s, {ratio:.2f} times full forwards")
    return {"saturation.ratio": ratio, "saturation.alternates_per_s": number / seconds["engine"]}


def main() -> None:
    """Run the benchmark."""
    runs = {case.name: partial(compare_engine, case) for case in CASES}
    runs["saturation"] = partial(compare_saturation, CASES[-1])
    options = read_options(__doc__, repeats=3, parts=tuple(runs))
    figures: dict[str, float] = {}
    failed = []
    for part in options.parts:
        try:
            figures |= runs[part](options)
        except Exception:  # noqa: BLE001  figures of an hour are not lost to one part
            traceback.print_exc()
            failed.append(part)
    finish("score", {f"score.{key}": value for key, value in figures.items()})
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
