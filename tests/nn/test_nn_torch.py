"""arrayloss.nn.torch: torch.nn's modules, used as one uses them."""

import copy
import inspect
import pickle
import subprocess
import sys
import warnings
from typing import Any

import pytest

import arrayloss as al

torch = pytest.importorskip("torch", reason="torch is not installed")
from arrayloss.nn import torch as nn  # noqa: E402

SHARED = ["CrossEntropyLoss", "NLLLoss", "BCELoss", "BCEWithLogitsLoss"]
FOCAL = ["SoftmaxFocalLoss", "SigmoidFocalLoss"]
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(6, 3, 2, dtype=torch.float64, generator=GENERATOR)
LABELS = torch.randint(0, 3, (6, 2), generator=GENERATOR)
BITS = torch.randint(0, 2, (6, 3, 2), generator=GENERATOR).double()
WEIGHT = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
INPUTS: dict[str, tuple[Any, Any]] = {
    "CrossEntropyLoss": (X, LABELS),
    "NLLLoss": (X.log_softmax(1), LABELS),
    "BCELoss": (X.sigmoid(), BITS),
    "BCEWithLogitsLoss": (X, BITS),
    "SoftmaxFocalLoss": (X, LABELS),
    "SigmoidFocalLoss": (X, BITS),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "CrossEntropyLoss": {"weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.1},
    "NLLLoss": {"weight": WEIGHT, "ignore_index": 1},
    "BCELoss": {"weight": WEIGHT[:, None]},
    "BCEWithLogitsLoss": {"weight": WEIGHT[:, None], "pos_weight": WEIGHT[:, None]},
    "SoftmaxFocalLoss": {"gamma": 1.5, "alpha": WEIGHT / 2, "weight": WEIGHT, "ignore_index": 1},
    "SigmoidFocalLoss": {"gamma": 1.5, "alpha": torch.tensor(0.25), "pos_weight": WEIGHT[:, None]},
}


def made(name: str, **options: Any) -> Any:
    return getattr(nn, name)(**{**OPTIONS[name], **options})


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", SHARED)
def test_it_is_torchs(name: str, reduction: str) -> None:
    original = getattr(torch.nn, name)
    assert inspect.signature(getattr(nn, name)) == inspect.signature(original)
    x, y = INPUTS[name]
    for options in ({}, OPTIONS[name]):
        results = []
        for module in (getattr(nn, name)(**options, reduction=reduction), original(**options, reduction=reduction)):
            assert isinstance(module, original)
            leaf = x.clone().requires_grad_()
            value = module(leaf, y)
            value.sum().backward()
            results += [value.detach(), leaf.grad]
        torch.testing.assert_close(results[0], results[2], rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(results[1], results[3], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", SHARED)
def test_legacy_arguments(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that they are deprecated
        assert getattr(nn, name)(size_average=False).reduction == "sum"
        assert getattr(nn, name)(reduce=False).reduction == "none"


def test_focal_modules_are_the_functions() -> None:
    x, y = INPUTS["SoftmaxFocalLoss"]
    expected = al.softmax_focal_loss(x, y, gamma=1.5, alpha=WEIGHT / 2, class_weight=WEIGHT, ignore_index=1, axis=1)
    torch.testing.assert_close(made("SoftmaxFocalLoss")(x, y), expected)
    one = al.softmax_focal_loss(x[0, :, 0], y[0, 0], label_smoothing=0.1)
    torch.testing.assert_close(nn.SoftmaxFocalLoss(label_smoothing=0.1)(x[0, :, 0], y[0, 0]), one)
    x, y = INPUTS["SigmoidFocalLoss"]
    expected = al.sigmoid_focal_loss(x, y, gamma=1.5, alpha=0.25, pos_weight=WEIGHT[:, None])
    torch.testing.assert_close(made("SigmoidFocalLoss")(x, y), expected)
    torch.testing.assert_close(made("SigmoidFocalLoss", alpha=0.25)(x, y), expected)
    expected = al.sigmoid_focal_loss(x, y, gamma=WEIGHT[:, None], alpha=WEIGHT[:, None] / 4)
    learned = torch.nn.Parameter(WEIGHT[:, None] / 4)
    module = nn.SigmoidFocalLoss(gamma=WEIGHT[:, None], alpha=learned)
    torch.testing.assert_close(module(x, y), expected)
    assert list(module.parameters()) == [learned]
    assert list(module.state_dict()) == ["alpha", "gamma"]
    with pytest.raises(ValueError, match="gamma"):
        nn.SoftmaxFocalLoss(gamma=-1.0)


@pytest.mark.parametrize("name", SHARED + FOCAL)
def test_reductions_of_ours(name: str) -> None:
    x, y = INPUTS[name]
    each = getattr(nn, name)(reduction="none")(x, y)
    hardest = getattr(nn, name)(reduction=al.Hardest(k=3))(x, y)
    torch.testing.assert_close(hardest, each.flatten().topk(3).values.mean())


@pytest.mark.parametrize("name", SHARED + FOCAL)
def test_the_state_goes_where_the_module_goes(name: str) -> None:
    x, y = INPUTS[name]
    module = made(name)
    expected = module(x, y)
    buffers = {k for k, v in OPTIONS[name].items() if isinstance(v, torch.Tensor)}
    assert set(module.state_dict()) == buffers
    blank = getattr(nn, name)(**{k: torch.ones_like(v) if k in buffers else v for k, v in OPTIONS[name].items()})
    blank.load_state_dict(module.state_dict())
    for again in (blank, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(again(x, y), expected)
    half = copy.deepcopy(module).to(torch.float32)
    assert all(buffer.dtype == torch.float32 for buffer in half.state_dict().values())
    small = x.float(), y.float() if y.is_floating_point() else y
    torch.testing.assert_close(half(*small), expected.float(), rtol=1e-5, atol=1e-6)
    on_meta = copy.deepcopy(module).to("meta")
    assert all(buffer.is_meta for buffer in on_meta.state_dict().values())
    if name in SHARED:
        # Checkpoints are exchanged with torch's own.
        getattr(torch.nn, name)(**OPTIONS[name]).load_state_dict(module.state_dict())


def test_what_it_says_of_itself() -> None:
    assert repr(made("CrossEntropyLoss")) == (
        "CrossEntropyLoss(weight=(3,), ignore_index=1, reduction='mean', label_smoothing=0.1)"
    )
    assert repr(nn.BCEWithLogitsLoss()) == "BCEWithLogitsLoss(reduction='mean')"
    assert repr(nn.SigmoidFocalLoss(alpha=0.25)) == (
        "SigmoidFocalLoss(gamma=2.0, alpha=0.25, reduction='mean', label_smoothing=0.0)"
    )


@pytest.mark.parametrize("name", SHARED + FOCAL)
def test_compiled(name: str) -> None:
    x, y = INPUTS[name]
    module = made(name)
    net = torch.nn.Conv1d(3, 3, 1).double()

    def step(x: Any, y: Any) -> Any:
        z = net(x)
        z = z.sigmoid() if name == "BCELoss" else z.log_softmax(1) if name == "NLLLoss" else z
        return module(z, y)

    results = []
    for run in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        net.zero_grad()
        value = run(x, y)
        value.backward()
        results.append((value.detach(), net.weight.grad.clone()))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "BCEWithLogitsLoss", "SoftmaxFocalLoss", "SigmoidFocalLoss"])
def test_under_autocast_the_loss_is_float32(name: str) -> None:
    module, linear = getattr(nn, name)(), torch.nn.Linear(4, 3)
    target = torch.tensor([0, 2, 1, 1, 0]) if name in ("CrossEntropyLoss", "SoftmaxFocalLoss") else torch.rand(5, 3)
    x = torch.randn(5, 4)

    def step(x: Any) -> Any:
        z = linear(x)
        return z, module(z, target)

    compiled = [torch.compile(step, fullgraph=True, backend="aot_eager")] if name == "CrossEntropyLoss" else []
    for call in (step, *compiled):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z, loss = call(x)
            if hasattr(torch.nn, name):
                torch.testing.assert_close(loss, getattr(torch.nn, name)()(z, target))
        assert (z.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
        torch.testing.assert_close(loss, module(z.float(), target))
        (gradient,) = torch.autograd.grad(loss, linear.weight)
        assert gradient.dtype == torch.float32
    assert module(z, target).dtype == torch.bfloat16


class Classifier(torch.nn.Module):
    """A model that holds its loss, as people write them."""

    def __init__(self, loss: Any, outputs: int) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, outputs))
        self.loss = loss

    def forward(self, x: Any, y: Any) -> Any:
        return self.loss(self.net(x), y)


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "SoftmaxFocalLoss", "BCEWithLogitsLoss", "SigmoidFocalLoss"])
def test_a_training_loop(name: str) -> None:
    torch.manual_seed(0)
    classes = name in ("CrossEntropyLoss", "SoftmaxFocalLoss")
    x = torch.randn(200, 2)
    right = (x[:, 0] * x[:, 1] > 0).long()
    y = right if classes else right[:, None].float()
    model = Classifier(getattr(nn, name)(), 2 if classes else 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = last = model(x, y)
    for _ in range(150):
        optimizer.zero_grad()
        last = model(x, y)
        last.backward()
        optimizer.step()
    assert last < first / 4
    z = model.net(x)
    answers = z.argmax(1) if classes else (z[:, 0] > 0).long()
    assert (answers == right).float().mean() > 0.95


def test_it_is_imported_by_name_only() -> None:
    code = "import sys, arrayloss, arrayloss.compat, arrayloss.nn; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
