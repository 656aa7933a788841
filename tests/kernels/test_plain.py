"""A call by the operators and one without them: the same results, and each where it should be."""

from contextlib import ExitStack, nullcontext

import pytest
import torch
from kernel_helpers import attend, make_problem, run
from test_derivatives import OVERWRITES
from test_registration import inputs_of
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from litedetr.kernels import registration
from litedetr.kernels.cpu import CpuBackend
from litedetr.kernels.fused.backend import FusedBackend
from litedetr.kernels.plain import is_plain

pytestmark = pytest.mark.usefixtures("few_programs", "both_paths")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = ["deformable", "key_aware_shared", "key_aware"]
BACKENDS = {"auto": "attention_cpu", "triton": "attention_fused"}
if DEVICE == "cuda":
    BACKENDS["auto"] = "attention_fused"


class PassingFunctions(TorchFunctionMode):
    def __torch_function__(self, function, types, arguments=(), options=None):
        return function(*arguments, **(options or {}))


class PassingOperators(TorchDispatchMode):
    """Keeps the names of the operators that it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.seen.append(str(function))
        return function(*arguments, **(options or {}))


PATHS = {"plain": nullcontext, "functions watched": PassingFunctions, "operators watched": PassingOperators}


@pytest.fixture
def operators(monkeypatch) -> list:
    """Grows by one for each call of an operator, except for the backward one of a forward one."""
    calls, flatten = [], registration._flatten
    monkeypatch.setattr(registration, "_flatten", lambda inputs: calls.append(inputs) or flatten(inputs))
    return calls


def small(**case):
    """One program: the interpreter takes 30 ms for each. Some samples lie inside, some outside."""
    return make_problem(**{"batch": 1, "heads": 1, "queries": 4} | case).to(DEVICE)


def changed(problem, **tensors):
    """The problem with other tensors."""
    return type(problem)(problem.tensors | tensors, problem.shapes, problem.valid_sizes)


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=0, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", [{}, {"boxes": True}, {"padded": True}, {"queries": 0}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_path_gives_the_same_bits(backend, kind, case, operators):
    results = {}
    for name, watcher in PATHS.items():
        operators.clear()
        with watcher():
            results[name] = run(backend, kind, small(**case), deterministic=True)
        assert len(operators) == (name != "plain")
        assert case == {"queries": 0} or all(tensor.any() for tensor in results[name].values())
    for name in PATHS:
        assert_same_bits(results[name], results["plain"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_atomics_on_every_path(kind, path):
    expected = run("reference", kind, small(padded=True).to("cpu"))
    with PATHS[path]():
        found = run("triton", kind, small(padded=True), deterministic=False)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].cpu(), tensor, atol=1e-11, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_deterministic_follows_torch_on_every_path(backend, monkeypatch):
    asked = []
    for which in (CpuBackend, FusedBackend):
        right = which.backward
        monkeypatch.setattr(
            which, "backward", lambda self, *given, right=right: asked.append(given[3]) or right(self, *given)
        )
    for watcher in PATHS.values():
        for wanted in (True, False):
            torch.use_deterministic_algorithms(wanted)
            try:
                with watcher():
                    out = attend("key_aware_shared", small(), backend)
                torch.use_deterministic_algorithms(not wanted)  # the call's own time counts
                out.sum().backward()
            finally:
                torch.use_deterministic_algorithms(False)
    assert asked == [True, False] * len(PATHS)


@pytest.mark.parametrize("recorded", PATHS)
@pytest.mark.parametrize("differentiated", PATHS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_path_differentiates_what_another_recorded(backend, recorded, differentiated):
    """With own keys; a gradient of the reference is wanted."""
    expected = run(backend, "key_aware", small(), deterministic=True)
    problem = small()
    with PATHS[recorded]():
        out = attend("key_aware", problem, backend, deterministic=True)
    with PATHS[differentiated]() as watcher:
        grad = torch.linspace(-1, 1, out.numel()).bfloat16().to(out.device, out.dtype).view_as(out)
        out.backward(grad)
    grads = {name: x.grad for name, x in problem.tensors.items() if x.grad is not None}
    assert_same_bits({"output": out.detach()} | grads, expected)
    if differentiated == "operators watched":
        assert f"litedetr.{BACKENDS[backend]}_backward.default" in watcher.seen


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_counter_around_the_backward_pass_alone(backend):
    """Two FLOPs for each of 10 multiply-adds a sample and channel, thrice."""
    problem = small()
    out = attend("key_aware", problem, backend)
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    samples, channels = problem.tensors["offsets"].numel() // 2, problem.tensors["value"].shape[-1]
    assert counter.get_total_flops() == 3 * 2 * 10 * samples * channels


def saved_by(backend, path):
    """The shapes of what a call keeps for its backward pass."""
    saved = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(tuple(x.shape)) or x, lambda x: x)
    with hooks, PATHS[path]():
        attend("key_aware", small(padded=True), backend)
    return saved


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("path", PATHS)
def test_every_path_keeps_the_same(backend, path):
    """Activation checkpointing compares what is kept by a call and by its repetition."""
    assert saved_by(backend, path) == saved_by(backend, "plain")


@pytest.mark.parametrize("first", PATHS)
@pytest.mark.parametrize("again", PATHS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_checkpointing_on_every_path(backend, first, again):
    """What was computed on one path is computed again on another."""
    expected = run(backend, "key_aware_shared", small(), deterministic=True)
    problem = small()
    with PATHS[first]():
        out = checkpoint(attend, "key_aware_shared", problem, backend, deterministic=True, use_reentrant=False)
    grad = torch.linspace(-1, 1, out.numel()).bfloat16().to(out.device, out.dtype).view_as(out)
    with PATHS[again]():
        out.backward(grad)
    grads = {name: x.grad for name, x in problem.tensors.items() if x.grad is not None}
    assert_same_bits({"output": out.detach()} | grads, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reentrant_checkpointing(backend):
    expected = run(backend, "key_aware_shared", small(), deterministic=True)["query"]
    problem = small()

    def of_query(query):
        return attend("key_aware_shared", changed(problem, query=query), backend, deterministic=True)

    out = checkpoint(of_query, problem.tensors["query"], use_reentrant=True)
    out.backward(torch.linspace(-1, 1, out.numel()).bfloat16().to(out.device, out.dtype).view_as(out))
    assert torch.equal(problem.tensors["query"].grad, expected)


@pytest.mark.parametrize("overwrite", OVERWRITES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_result_may_be_overwritten_on_every_path(backend, path, overwrite):
    gradients = []
    for which, watcher in (("reference", nullcontext), (backend, PATHS[path])):
        problem = small()
        with watcher():
            out = attend("key_aware_shared", problem, which)
            OVERWRITES[overwrite](out)
            out.square().sum().backward()
        gradients.append(problem.tensors["value"].grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["value", "query", "offsets"])
def test_an_input_that_was_overwritten_is_an_error_on_every_path(backend, path, name):
    problem = small()
    with PATHS[path]():
        out = attend("key_aware_shared", problem, backend)
        with torch.no_grad():
            problem.tensors[name].add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_second_derivatives_are_refused_on_every_path(backend, path):
    problem = small()
    with PATHS[path]():
        out = attend("key_aware_shared", problem, backend)
        (grad,) = torch.autograd.grad(out.square().sum(), problem.tensors["query"], create_graph=True)
        with pytest.raises(RuntimeError, match="use backend='reference' for second derivatives"):
            grad.sum().backward()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_on_every_path(backend, path):
    problem = small(dtype=torch.float32)
    low = problem.cast(torch.bfloat16)
    low.tensors["offsets"] = problem.tensors["offsets"].detach().requires_grad_()
    grads = []
    for which, lowers in ((problem, True), (low, False)):
        with PATHS[path](), torch.autocast(DEVICE, torch.bfloat16, enabled=lowers):
            out = attend("key_aware", which, backend, deterministic=True)
            assert out.dtype == torch.bfloat16
            out.sum().backward()
        grads.append([out, *(which.tensors[name].grad for name in ("query", "key", "value", "offsets"))])
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found.to(expected.dtype), expected, atol=0, rtol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", [{"reference"}, {"offsets", "key"}, {"query"}])
def test_gradients_that_are_wanted_on_every_path(backend, path, wanted):
    problem = small()
    for name, tensor in problem.tensors.items():
        tensor.requires_grad_(name in wanted)
    with PATHS[path]():
        found = run(backend, "key_aware", problem, deterministic=True)
    everything = run(backend, "key_aware", small(), deterministic=True)
    assert_same_bits(found, {name: everything[name] for name in ("output", *sorted(wanted))})


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_graph_names_the_attention(backend, path):
    with PATHS[path]():
        node = attend("key_aware_shared", small(), backend).grad_fn
    if path != "plain":
        node = node.next_functions[0][0]  # of the view (B, Q, M * D)
    assert type(node).__name__ == f"{BACKENDS[backend]}Backward"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_a_graph(backend, path, mode):
    problem = small()
    with mode(), PATHS[path]():
        out = attend("key_aware_shared", problem, backend)
        assert not out.requires_grad
        out.add_(1)
    assert out.is_inference() == (mode is torch.inference_mode)
    torch.testing.assert_close(out, attend("key_aware_shared", small(), backend).detach() + 1, atol=0, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_and_batched_gradients_of_a_plain_call(backend):
    """save_on_cpu packs what is kept; is_grads_batched differentiates once for each of several gradients."""
    problem = small()
    with torch.autograd.graph.save_on_cpu():
        out = attend("key_aware", problem, backend, deterministic=True)
    assert type(out.grad_fn).__name__ == f"{BACKENDS[backend]}Backward"
    seeds = torch.stack([torch.ones_like(out), torch.linspace(-1, 1, out.numel()).to(out).view_as(out)])
    leaves = [problem.tensors["value"], problem.tensors["offsets"]]
    one_by_one = [torch.autograd.grad(out, leaves, seed, retain_graph=True) for seed in seeds]
    batched = torch.autograd.grad(out, leaves, seeds, is_grads_batched=True)
    for found, expected in zip(batched, zip(*one_by_one, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(expected), atol=1e-12, rtol=0)


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("kind", [lambda x: torch._neg_view(-x), lambda x: x.as_subclass(Subclass)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_other_kinds_take_the_operator(backend, kind, operators):
    expected = run(backend, "key_aware", small(), deterministic=True)["value"]
    problem = small()
    out = attend("key_aware", problem, backend, deterministic=True)
    grad = torch.linspace(-1, 1, out.numel()).bfloat16().to(out.device, out.dtype).view_as(out)
    torch.testing.assert_close(
        torch.autograd.grad(out, problem.tensors["value"], kind(grad))[0].as_subclass(torch.Tensor), expected
    )
    assert len(operators) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_may_give_back_tensors_of_other_kinds(backend, operators):
    expected = run(backend, "key_aware", small(), deterministic=True)["value"]
    problem = small()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: x.detach(), lambda x: torch._neg_view(-x) if x.is_floating_point() else x
    ):
        out = attend("key_aware", problem, backend, deterministic=True)
    grad = torch.linspace(-1, 1, out.numel()).bfloat16().to(out.device, out.dtype).view_as(out)
    torch.testing.assert_close(torch.autograd.grad(out, problem.tensors["value"], grad)[0], expected)
    assert len(operators) == 1


def test_plain_is_what_nothing_watches():
    problem = small()
    assert is_plain(inputs_of("key_aware", problem))
    problem.tensors = {name: Parameter(x.detach()) for name, x in problem.tensors.items()}
    inputs = inputs_of("key_aware", problem)
    assert is_plain(inputs)
    for surrounding in (torch.no_grad, torch.inference_mode, lambda: torch.autocast(DEVICE, torch.bfloat16)):
        with surrounding():
            assert is_plain(inputs)
    watchers = {
        "functions": PassingFunctions(),
        "operators": PassingOperators(),
        "FLOPs": FlopCounterMode(display=False),
        "forward mode": torch.autograd.forward_ad.dual_level(),
        "default device": torch.device("cpu"),
    }
    for name, watcher in watchers.items():
        with watcher:
            assert not is_plain(inputs), name
    assert is_plain(inputs)
    seen = []
    torch.func.vmap(lambda x: seen.append(is_plain(inputs)) or x)(torch.ones(2))
    torch.func.grad(lambda x: seen.append(is_plain(inputs)) or x)(torch.tensor(1.0))
    torch.jit.trace(lambda x: seen.append(is_plain(inputs)) or x * 1, (torch.ones(2),), check_trace=False)
    make_fx(lambda x: seen.append(is_plain(inputs)) or x * 1)(torch.ones(2))
    make_fx(lambda x: seen.append(is_plain(inputs)) or x * 1, pre_dispatch=True)(torch.ones(2))
    assert seen == [False] * 5


STRANGE = {
    "subclass": lambda x: x.detach().as_subclass(Subclass),
    "negated view": lambda x: torch._neg_view(-x.detach()),
    "meta": lambda x: x.detach().to("meta"),
    "fake": lambda x: torch._subclasses.FakeTensorMode().from_tensor(x.detach()),
    "sparse": lambda x: x.detach().to_sparse(),
    "zero": lambda x: torch._efficientzerotensor(x.shape, dtype=x.dtype, device=x.device),
    "no tensor": lambda x: x.tolist(),
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("name", ["query", "key", "value", "reference", "offsets"])
def test_other_kinds_of_tensors_are_not_plain(name, kind):
    problem = small()
    problem.tensors[name] = STRANGE[kind](problem.tensors[name])
    assert not is_plain(inputs_of("key_aware", problem))


@pytest.mark.parametrize("shapes", [[(5, 4), (3, 2)], ([5, 4], (3, 2)), ((5, True), (3, 2)), ((5.0, 4), (3, 2)), 3])
def test_shapes_of_other_types_are_not_plain(shapes):
    problem = small()
    problem.shapes = shapes
    assert not is_plain(inputs_of("key_aware", problem))


@pytest.mark.parametrize("backend", ["auto", "triton", "reference"])
def test_lists_of_sizes_are_taken(backend):
    problem = small(query_shapes=((1, 4),))
    expected = run(backend, "key_aware", problem, deterministic=True)
    problem = small(query_shapes=[[1, 4]])
    problem.shapes = [[5, 4], [3, 2]]
    assert_same_bits(run(backend, "key_aware", problem, deterministic=True), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_watches_sees_the_operators(backend):
    name = f"litedetr.{BACKENDS[backend]}"
    with PassingOperators() as watcher:
        run(backend, "key_aware", small())
    assert [seen for seen in watcher.seen if "litedetr" in seen] == [f"{name}.default", f"{name}_backward.default"]

    functions = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), options=None):
            functions.append(str(function))
            return function(*arguments, **(options or {}))

    with Functions():
        attend("key_aware", small(), backend)
    assert f"{name}.default" in functions

    problem = small()
    graph = make_fx(lambda value: attend("key_aware", changed(problem, value=value), backend))(problem.tensors["value"])
    assert f"{name}.default" in [str(node.target) for node in graph.graph.nodes]


@pytest.mark.parametrize("backend", BACKENDS)
def test_modules_called_with_other_parameters(backend):
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.value = Parameter(torch.zeros_like(small().tensors["value"]))

        def forward(self):
            problem = small()
            return attend(
                "key_aware_shared",
                type(problem)(problem.tensors | {"value": self.value}, problem.shapes, None),
                backend,
            )

    value = small().tensors["value"].detach().requires_grad_()
    out = torch.func.functional_call(Attention(), {"value": value}, ())
    torch.testing.assert_close(out, attend("key_aware_shared", small(), backend), atol=0, rtol=0)
    assert torch.autograd.grad(out.sum(), value)[0].any()


@pytest.mark.parametrize("path", PATHS)
def test_a_profiler_sees_the_attention_by_name(path):
    problem = small()
    with PATHS[path](), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        attend("key_aware_shared", problem, "auto").sum().backward()
    names = {event.name for event in profile.events()}
    assert any(name.endswith(BACKENDS["auto"]) for name in names)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plain_call_between_breaks_of_a_compiled_graph_is_one_step(backend, monkeypatch):
    """Where torch.compile gave up on a function, it still compiles what the function calls."""
    expected = run(backend, "key_aware", small(), deterministic=True)
    monkeypatch.setattr("litedetr.kernels.functional.is_plain", torch._dynamo.disable(lambda inputs: True))
    monkeypatch.setattr("litedetr.kernels.eager.is_watched", torch._dynamo.disable(lambda: False))
    compiled, problem = [], small()

    def keep(graph, _):
        compiled.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    def step():
        attended = attend("key_aware", problem, backend, deterministic=True)
        grad = torch.linspace(-1, 1, attended.numel()).bfloat16().to(attended.device, attended.dtype)
        attended.backward(grad.view_as(attended))
        return attended.sin()

    torch._dynamo.reset()
    out = torch.compile(step, backend=keep)()
    torch.testing.assert_close(out, expected.pop("output").sin())
    assert_same_bits({name: problem.tensors[name].grad for name in expected}, expected)
    assert compiled
    assert not [name for name in compiled if "embedding" in name or "empty" in name or "zeros" in name]


def test_several_watchers_at_once():
    with ExitStack() as stack:
        watchers = [stack.enter_context(PassingOperators()) for _ in range(2)]
        attend("key_aware_shared", small(), "auto")
    for watcher in watchers:
        assert f"litedetr.{BACKENDS['auto']}.default" in watcher.seen
