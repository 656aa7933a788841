"""What is kept from one call to the next: it never stands for a call that it was not made for, nor spoils one."""

from dataclasses import replace

import pytest
import torch
from kernel_helpers import attend as attend_problem
from kernel_helpers import make_problem, run
from test_arguments import TENSORS, WRONG_SHAPES, WRONG_TENSORS, attend
from torch._subclasses import FakeTensorMode

from litedetr.kernels import arguments as checks
from litedetr.kernels import constants, points, reference
from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.functional import key_aware_attention
from litedetr.kernels.fused import tables
from litedetr.kernels.fused.backend import FusedBackend
from litedetr.kernels.fused.call import plan_of
from litedetr.kernels.fused.launch import Launch, Shape, given
from litedetr.kernels.fused.limits import MOST_GRID
from litedetr.kernels.fused.sizes import Sizes, power_of_two

pytestmark = pytest.mark.usefixtures("few_programs", "both_paths")

BACKENDS = ["auto", "triton", "reference"]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CACHES = {
    "level table": (tables.level_table, lambda: tables.level_table(((5, 4), (3, 2)), DEVICE)),
    "tile order": (tables.tile_order, lambda: tables.tile_order(((3, 5), (1, 2)), (2, 2), DEVICE)),
    "constant": (constants._kept, lambda: constants._kept((1, 2, 3), torch.float32, DEVICE)),
}


@pytest.fixture(autouse=True)
def nothing_kept():
    checks._fitting.clear()
    for cache, _ in CACHES.values():
        cache.cache_clear()


@pytest.mark.filterwarnings("ignore:.*(prototype stage|beta state)")
@pytest.mark.parametrize("change", WRONG_TENSORS)
@pytest.mark.parametrize("name", TENSORS)
def test_a_right_call_lets_no_wrong_tensor_pass(name, change):
    kind = "deformable" if name == "logits" else "key_aware"
    attend("auto", kind)
    assert checks._fitting
    with pytest.raises((ValueError, TypeError), match="^[a-z_]+: expected .*, got "):
        attend("auto", kind, **{name: WRONG_TENSORS[change]})


@pytest.mark.parametrize("shapes", WRONG_SHAPES.values(), ids=list(WRONG_SHAPES))
def test_a_right_call_lets_no_wrong_shapes_pass(shapes):
    attend("auto")
    with pytest.raises(ValueError, match="^(shapes|value|offsets): expected .*, got "):
        attend("auto", shapes=lambda _: shapes)


@pytest.mark.parametrize("shapes", [((1, 4),), ((1.0, 3),), ((3, 1.0),), 3, (3,)], ids=str)
def test_a_right_call_lets_no_wrong_query_shapes_pass(shapes):
    attend("auto", query_shapes=lambda _: ((3, 1),))
    attend("auto", query_shapes=lambda _: ((1, 3),))
    with pytest.raises(ValueError, match="^query_shapes: expected .*, got "):
        attend("auto", query_shapes=lambda _: shapes)


def test_precisions_that_fit_under_autocast_do_not_fit_without():
    problem = make_problem(dtype=torch.float32).to(DEVICE)
    query, value = problem.tensors["query"], problem.tensors["value"].bfloat16()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        for _ in range(2):
            assert key_aware_attention(query, value, problem.points).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="^query: expected torch.bfloat16 like value, got torch.float32"):
        key_aware_attention(query, value, problem.points)


def test_a_wrong_call_is_not_remembered():
    for _ in range(2):
        with pytest.raises(ValueError, match="^query: expected"):
            attend("auto", query=lambda x: x[..., 1:])
    assert not checks._fitting


def test_few_calls_are_remembered(monkeypatch):
    monkeypatch.setattr(checks, "MOST_REMEMBERED", 2)
    for queries in range(5):
        attend_problem("key_aware", make_problem(queries=queries), "auto")
        assert 1 <= len(checks._fitting) <= 2
    for cache in (*(cache for cache, _ in CACHES.values()), plan_of):
        assert cache.cache_info().maxsize is not None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("surrounding", ["inference mode", "no grad", "fake tensors", "a default device"])
def test_a_first_call_anywhere_spoils_no_later_one(backend, surrounding):
    """Nothing that is kept is a tensor of inference mode, which autograd would not save, nor a fake."""
    expected = run(backend, "key_aware", make_problem(padded=True).to(DEVICE), deterministic=True)
    for cache, _ in CACHES.values():
        cache.cache_clear()
    plan_of.cache_clear()
    problem = make_problem(padded=True).to(DEVICE)
    if surrounding == "fake tensors":
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        fakes = problem._with(lambda _, x: mode.from_tensor(x.detach()), mode.from_tensor(problem.valid_sizes))
        with mode:
            attend_problem("key_aware", fakes, backend)
            attend_problem("key_aware", problem, backend)
    else:
        around = {"inference mode": torch.inference_mode, "no grad": torch.no_grad}
        with around.get(surrounding, lambda: torch.device("meta"))():
            attend_problem("key_aware", problem, backend, deterministic=True)
    found = run(backend, "key_aware", problem, deterministic=True)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=0, rtol=0)


@pytest.mark.parametrize("name", CACHES)
def test_what_is_kept_is_an_ordinary_tensor_wherever_it_is_made(name):
    cache, make = CACHES[name]
    expected = make()
    for surrounding in (torch.inference_mode, FakeTensorMode, lambda: torch.device("meta")):
        cache.cache_clear()
        with surrounding():
            kept = make()
        assert type(kept) is torch.Tensor
        assert not kept.is_inference()
        assert torch.equal(kept, expected)
        assert make() is kept


@pytest.mark.parametrize("name", CACHES)
def test_a_first_call_within_the_capture_of_a_graph_is_an_error(name, monkeypatch):
    cache, make = CACHES[name]
    kept = make()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert make() is kept  # what was there before may be used
    cache.cache_clear()
    monkeypatch.setitem(globals(), "DEVICE", torch.device("cuda", 0))
    with pytest.raises(RuntimeError, match="^CUDA graph: expected an attention of these shapes to have run before"):
        make()
    assert cache.cache_info().currsize == 0


def test_constants_that_callers_change_stay_what_they_are():
    like = torch.zeros(1, device=DEVICE)
    points.as_tensor((1, 2, 3), like).zero_()
    assert points.as_tensor((1, 2, 3), like).tolist() == [1, 2, 3]
    assert points.as_tensor((1, 2, 3), like.long()).dtype == torch.int64


def test_the_reference_copies_nothing_to_the_device_a_second_time(monkeypatch):
    """In a CUDA graph it could not, and otherwise the host would wait for it."""
    problem = make_problem(padded=True).to(DEVICE)
    first = attend_problem("key_aware", problem, "reference")
    for module in (points, reference):
        monkeypatch.setattr(module.torch, "tensor", None)
    assert torch.equal(attend_problem("key_aware", problem, "reference"), first)


WORKLOAD = Workload("key_aware_shared", torch.float32, (1, 2), shapes=((4, 4), (2, 2)), heads=2, channels=8, points=2)


def test_one_plan_for_each_of_what_it_follows_from():
    """Every field of Sizes and of Launch makes another one, and equal ones make the same."""
    sizes, launch = Sizes.of(WORKLOAD.inputs(DEVICE)), Launch(2, 1)
    plan = plan_of(sizes, launch)
    assert plan_of(Sizes.of(WORKLOAD.inputs(DEVICE)), Launch(2, 1)) is plan
    others = {
        "score": "key_aware", "dtype": torch.float64, "device": torch.device("meta"), "batch": 3, "queries": 5,
        "heads": 1, "channels": 9, "levels": 1, "points": 1, "tokens": 1, "boxes": True, "padded": True,
        "shapes": ((2, 8), (2, 2)),
        "query_shapes": ((1, 4),),
        "sampling": "nearest",
    }  # fmt: skip
    assert set(others) == set(Sizes._fields)
    for name, value in others.items():
        assert plan_of(sizes._replace(**{name: value}), launch) is not plan, name
    assert plan_of(sizes, replace(launch, num_warps=2)).query_constants["num_warps"] == 2
    assert plan_of(sizes, replace(launch, max_registers=64)).query_constants["maxnreg"] == 64
    assert plan_of(sizes, replace(launch, tile_height=2)).order is not None
    assert plan.order is None


def test_limits_are_checked_again_after_an_error():
    sizes = Sizes.of(WORKLOAD.inputs(DEVICE))._replace(heads=MOST_GRID + 1)
    for _ in range(2):
        with pytest.raises(ValueError, match="^value: expected at most 65535 heads"):
            plan_of(sizes, Launch(2, 1))


def test_the_launch_of_a_shape_follows_its_pass():
    """What is kept of one pass does not serve the other."""
    inputs = WORKLOAD.inputs(DEVICE)
    shapes = [Shape.of(name, inputs) for name in ("forward", "backward", "forward")]
    assert [shape.pass_name for shape in shapes] == ["forward", "backward", "forward"]
    assert shapes[0] is shapes[2]


def test_a_launch_that_the_backend_is_told_to_take_is_taken():
    """Whatever was launched before on the same inputs."""
    inputs, blocks = WORKLOAD.inputs(DEVICE), []
    for block in (1, 2, 4, 2):
        launches = given(forward=Launch(block, 1))
        fused = FusedBackend(launches, lambda *_, **constants: blocks.append(constants["BLOCK_QUERIES"]))
        fused.forward(inputs, False)
    assert blocks == [1, 2, 4, 2]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 8, 9, 2**20, 2**20 + 1])
def test_powers_of_two(number):
    power = power_of_two(number)
    assert power.bit_count() == 1
    assert power // 2 < number <= power
