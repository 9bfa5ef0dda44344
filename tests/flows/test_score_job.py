import pytest
from pydantic import ValidationError

from cisray.flows.cluster import ClusterSpec
from cisray.flows.score_job import ExportSpec, GeneSpec, ScoreJob
from cisray.scoring.engine import EngineSpec
from cisray.scoring.manifest import Storage
from cisray.scoring.nulls import NullSpec

pytestmark = pytest.mark.ray  # not started, but imported
SUMMARY = Storage(values="summary")


def make_job(**changes):
    return ScoreJob(**({"variants": "v.vcf", "fasta": "g.fa", "model": "m", "out": "o"} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": EngineSpec(strands="both")}, "gain_offset is a place, and places of several passes have no mean"),
        ({"engine": EngineSpec(shifts=(1,))}, "gain_offset is a place, and places of several passes have no mean"),
        ({"ensemble": ("other",)}, r'score with one model, engine.strands = "forward" and engine.shifts = \[0\]'),
        ({"storage": Storage(dtype="float16")}, "float16 cannot hold all; leave .storage. out"),
        ({"storage": SUMMARY}, "of which there is no strongest track"),
        ({"calibration": "hand"}, "calibration: gain_offset is a place, and ranks of places say nothing"),
    ],
)
def test_a_place_is_neither_averaged_nor_ranked(changes, message):
    with pytest.raises(ValidationError, match=message):
        make_job(**({"scores": ("DP_DG",), "engine": EngineSpec()} | changes))
    make_job(scores=("DP_DG",), engine=EngineSpec())


@pytest.mark.parametrize(
    ("what", "beside"),
    [
        ("calibration", {"calibration": "hand"}),
        ("null", {"null": NullSpec(number=2)}),
        ("export.top", {"export": ExportSpec(top=3)}),
        ("export.calico_h5", {"export": ExportSpec(calico_h5=True)}),
    ],
)
def test_lists_that_would_not_be_kept_are_refused(what, beside):
    with pytest.raises(ValidationError, match=f"{what}: is of lists of values, and storage keeps none; name tracks in"):
        make_job(storage=SUMMARY, **beside)
    make_job(storage=Storage(values="summary", tracks=("minus",)), **beside)


def test_genes_have_no_places():
    with pytest.raises(ValidationError, match="genes: loss_offset is counted from a variant, not in a gene"):
        GeneSpec(scores=("DP_AL",))


def test_cuda_graphs_without_a_gpu_are_refused():
    graphs = EngineSpec(compile=True, cuda_graphs=True)
    with pytest.raises(ValidationError, match=r"cuda_graphs=true, but cluster\.gpus_per_actor=0; give each actor"):
        make_job(engine=graphs)
    make_job(engine=graphs, cluster=ClusterSpec(gpus_per_actor=1))


def test_passes_are_no_more_than_a_row_can_count():
    make_job(engine=EngineSpec(shifts=tuple(range(255))))
    with pytest.raises(ValidationError, match="engine: 256 passes, strands times shifts times models; a row counts"):
        make_job(engine=EngineSpec(shifts=tuple(range(64)), strands="both"), ensemble=("other",))


def test_a_track_is_named_once():
    with pytest.raises(ValidationError, match="tracks names a track twice; name each once"):
        make_job(tracks=("plus", "minus", "plus"))
