"""Every derivative is the reference's or refused with an error that names it, however it is asked for."""

from functools import partial

import pytest
import torch
from kernel_helpers import attend, make_problem
from test_registration import inputs_of
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from litedetr.kernels.registration import _flatten

pytestmark = pytest.mark.usefixtures("few_programs")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = ["deformable", "key_aware_shared", "key_aware"]
BACKENDS = ["auto", "triton"]
NAMES = {
    "deformable": ("value", "logits", "reference", "offsets"),
    "key_aware_shared": ("query", "value", "reference", "offsets"),
    "key_aware": ("query", "key", "value", "reference", "offsets"),
}
EXACT = {"atol": 1e-11, "rtol": 0}
TINY = {"shapes": ((2, 2),), "channels": 2, "points": 1}
REFUSED = "use backend='reference'"


def small(**case):
    """One program: the interpreter takes 30 ms for each."""
    return make_problem(**{"batch": 1, "heads": 1, "queries": 2, "points": 2} | case).to(DEVICE)


def of_tensors(kind, problem, backend):
    """The attention as a function of the tensors that it takes, and these, detached."""

    def function(*given):
        tensors = problem.tensors | dict(zip(NAMES[kind], given, strict=True))
        return attend(kind, type(problem)(tensors, problem.shapes, problem.valid_sizes), backend)

    return function, [problem.tensors[name].detach() for name in NAMES[kind]]


def of_value(kind, backend):
    """The attention as a function of the values alone, and these."""
    problem = small(**TINY)
    problem.tensors = {name: x.detach() for name, x in problem.tensors.items()}
    function, tensors = of_tensors(kind, problem, backend)
    place = NAMES[kind].index("value")
    return lambda value: function(*tensors[:place], value, *tensors[place + 1 :]), tensors[place]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_vjp_is_the_reference(kind, backend):
    problem = small(padded=True, boxes=True)
    results = []
    for which in ("reference", backend):
        function, tensors = of_tensors(kind, problem, which)
        out, backward = torch.func.vjp(function, *tensors)
        results.append((out, backward(torch.linspace(-1, 1, out.numel()).to(out).view_as(out))))
    torch.testing.assert_close(results[1], results[0], **EXACT)


def squares(function, *tensors):
    return function(*tensors).square().sum()


REVERSE = {
    "grad": lambda f, v: torch.func.grad(partial(squares, f))(v),
    "jacrev": lambda f, v: torch.func.jacrev(f)(v),
    "vectorized jacobian": lambda f, v: torch.autograd.functional.jacobian(f, v, vectorize=True),
    "vmap": lambda f, v: torch.func.vmap(f)(torch.stack([v, v.cos()])),
    "grad within vmap": lambda f, v: torch.func.vmap(torch.func.grad(partial(squares, f)))(torch.stack([v, v.cos()])),
    "vmap within grad": lambda f, v: torch.func.grad(lambda v: torch.func.vmap(f, 2)(v).sum())(
        torch.stack([v, v.cos()], 2)
    ),
    "grad within autograd": lambda f, v: torch.autograd.functional.vjp(
        lambda v: v * torch.func.grad(partial(squares, f))(v.detach()), v, v
    ),
    "functionalize": lambda f, v: torch.func.functionalize(f)(v),
    "compiled grad": lambda f, v: torch.compile(torch.func.grad(partial(squares, f)), backend="aot_eager")(v),
    "jvp of another argument": lambda f, v: torch.func.jvp(lambda x: f(v) * x, (v.mean(),), (v.mean(),)),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transform", REVERSE)
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap calls an operator once for each
def test_reverse_mode_is_the_reference(transform, backend):
    results = [REVERSE[transform](*of_value("key_aware", which)) for which in ("reference", backend)]
    assert torch.utils._pytree.tree_leaves(results)[0].any()
    torch.testing.assert_close(results[1], results[0], **EXACT)


def dual(function, value):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(value, value.cos()))).tangent


def dual_without_grad(function, value):
    with torch.no_grad():
        return dual(function, value)


FORWARD = {
    "jvp": lambda f, v: torch.func.jvp(f, (v,), (v.cos(),)),
    "jacfwd": lambda f, v: torch.func.jacfwd(f)(v),
    "linearize": lambda f, v: torch.func.linearize(f, v),
    "dual": dual,
    "dual without grad": dual_without_grad,
    "dual with grad": lambda f, v: dual(f, v.clone().requires_grad_()),
    "dual, compiled": lambda f, v: dual(torch.compile(f, backend="aot_eager"), v),
    "jvp within vmap": lambda f, v: torch.func.vmap(lambda v: torch.func.jvp(f, (v,), (v.cos(),)))(v.unsqueeze(0)),
    "forward-mode jacobian": lambda f, v: torch.autograd.functional.jacobian(
        f, v, strategy="forward-mode", vectorize=True
    ),
}
SECOND = {
    "hessian": lambda f, v: torch.func.hessian(partial(squares, f))(v),
    "grad of grad": lambda f, v: torch.func.grad(lambda v: torch.func.grad(partial(squares, f))(v).sum())(v),
    "jvp of grad": lambda f, v: torch.func.jvp(torch.func.grad(partial(squares, f)), (v,), (v.cos(),)),
    "grad of jvp": lambda f, v: torch.func.grad(lambda v: torch.func.jvp(f, (v,), (v.cos(),))[1].sum())(v),
    "jvp by vjp twice": lambda f, v: torch.autograd.functional.jvp(f, v, v.cos()),
    "hvp": lambda f, v: torch.autograd.functional.hvp(partial(squares, f), v, v.cos()),
    "second jacobian": lambda f, v: torch.autograd.functional.hessian(partial(squares, f), v),
}


@pytest.mark.parametrize(("backend", "kind"), [("auto", "deformable"), ("auto", "key_aware"), ("triton", "key_aware")])
@pytest.mark.parametrize("transform", FORWARD | SECOND)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_what_has_no_rule_is_refused(transform, kind, backend):
    with pytest.raises(RuntimeError, match=REFUSED):
        (FORWARD | SECOND)[transform](*of_value(kind, backend))


@pytest.mark.parametrize("transform", {name: f for name, f in (FORWARD | SECOND).items() if "compiled" not in name})
def test_the_reference_has_them_all(transform):
    (FORWARD | SECOND)[transform](*of_value("key_aware", "reference"))


def test_gradcheck():
    """Finite differences, which interpreted take long."""
    function, value = of_value("key_aware", "auto")
    value.requires_grad_()
    assert torch.autograd.gradcheck(function, value, check_batched_grad=True)
    with pytest.raises(RuntimeError, match=REFUSED):
        torch.autograd.gradcheck(function, value, check_forward_ad=True)
    with pytest.raises(RuntimeError, match=REFUSED):
        torch.autograd.gradgradcheck(function, value)


def arguments_of(name):
    """Of an operator, detached, on a device that it computes on."""
    import litedetr.kernels.fused  # noqa: F401  registers the operator

    problem = small(**TINY).to("cpu" if name == "attention_cpu" else DEVICE)
    return [x.detach() if isinstance(x, torch.Tensor) else x for x in _flatten(inputs_of("key_aware", problem))]


def of_operator(name):
    """Its outcome as a function of the values, and these."""
    arguments = arguments_of(name)
    operator = getattr(torch.ops.litedetr, name)
    return lambda value: operator(*arguments[:2], value, *arguments[3:], True)[0], arguments[2]


def of_backward_operator(name):
    """Its gradient of the values as a function of that of the output, and one of these."""
    arguments = arguments_of(name)
    results = getattr(torch.ops.litedetr, name)(*arguments, True)
    operator = getattr(torch.ops.litedetr, f"{name}_backward")
    return lambda grad_out: operator(grad_out, *results, True, *arguments, True)[2], results[0].cos()


@pytest.mark.parametrize("operator", ["attention_cpu", "attention_fused"])
@pytest.mark.parametrize("made", [of_operator, of_backward_operator])
@pytest.mark.parametrize("transform", FORWARD)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_operators_refuse_forward_mode_themselves(transform, made, operator):
    with pytest.raises(RuntimeError, match=REFUSED):
        FORWARD[transform](*made(operator))


@pytest.mark.parametrize("operator", ["attention_cpu", "attention_fused"])
def test_operators_take_torch_func_themselves(operator):
    function, value = of_operator(operator)
    expected = REVERSE["grad"](*of_value("key_aware", "reference")).flatten()
    torch.testing.assert_close(REVERSE["grad"](function, value).flatten().to(DEVICE), expected, **EXACT)
    with pytest.raises(RuntimeError, match=REFUSED):
        SECOND["hessian"](function, value)
    with pytest.raises(RuntimeError, match=REFUSED):
        REVERSE["grad"](*of_backward_operator(operator))


OVERWRITES = {
    "add": lambda out: out.add_(1.0),
    "relu": torch.relu_,
    "scale": lambda out: out.mul_(out.detach() + 2),
    "a view": lambda out: out.view(-1)[:3].zero_(),
}


@pytest.mark.parametrize("how", ["eager", "checkpoint", "compiled"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("overwrite", OVERWRITES)
def test_the_result_may_be_overwritten_before_the_backward_pass(overwrite, backend, how):
    def gradient(which, how):
        function, value = of_value("key_aware_shared", which)

        def step(value):
            out = function(value * 1)
            OVERWRITES[overwrite](out)
            return out

        leaf = value.requires_grad_()
        if how == "checkpoint":
            out = checkpoint(step, leaf, use_reentrant=False)
        else:
            out = (torch.compile(step, backend="aot_eager") if how == "compiled" else step)(leaf)
        return torch.autograd.grad(out.square().sum(), leaf)[0]

    torch.testing.assert_close(gradient(backend, how), gradient("reference", "eager"), **EXACT)


@pytest.mark.parametrize(("backend", "copies"), [("auto", int(DEVICE == "cuda")), ("triton", 1)])
def test_what_is_kept_of_the_result(backend, copies):
    """Nothing on the CPU; a copy for the fused kernels, and none if there is no backward pass."""
    problem, saved = small(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        out = attend("key_aware", problem, backend)
    results = [x for x in saved if x.shape[:3] == (1, 2, 1) and not x.requires_grad and x.numel()]
    assert len([x for x in results if x.numel() == out.numel()]) == copies
    assert all(x.data_ptr() != out.data_ptr() for x in results)
    saved.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x), torch.no_grad():
        attend("key_aware", problem, backend)
    assert saved == []
