"""`--candidate`: anybody's function, by the suite's cases; the functions are in candidates.py."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import os
import re
from typing import Any

import candidates
import pytest

import arrayloss
from arrayloss.testing import assert_conforms
from conformance import candidates as listed
from conformance import failures, share
from conformance.__main__ import main
from conformance.runner import Selection

BINARY = "binary_cross_entropy_with_logits"


def judge(capsys: pytest.CaptureFixture[str], path: str, *more: str, dtype: str = "float32") -> tuple[int, str]:
    code = main(["--candidate", path, "--dtype", dtype, "--workers", "1", *more])
    said = capsys.readouterr()
    return code, said.out + said.err


def failed(said: str) -> set[tuple[str, str]]:
    """The quantities and families that fail."""
    return set(re.findall(r"^FAIL \w+, (?:auto |closed )?(value|d \w+|call), (\w+)/", said, re.MULTILINE))


def test_a_function_of_ones_own_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """With no options at all: what it hasn't is reported, and no failure."""
    code, said = judge(capsys, f"candidates:{BINARY}")
    assert (code, failed(said)) == (0, set())
    for line in (
        "- takes no label_smoothing: ",
        "- reduction mean: it doesn't reduce:",
        "- takes no ignore_index: ",
        "- gradients: numpy has no autodiff",
    ):
        assert f"\n{line}" in said
    assert "| numpy" in said


@pytest.mark.parametrize(("name", "reduces"), [("mean", "mean"), ("total", "sum")])
def test_a_function_that_reduces_by_itself_is_given_single_samples(
    name: str, reduces: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = judge(capsys, f"candidates:{name}", "--as", BINARY)
    assert (code, failed(said)) == (0, set())
    assert f"reduction {'sum' if reduces == 'mean' else 'mean'}: it reduces to its {reduces}" in said
    assert "margins/" not in said  # covered
    code, said = judge(capsys, f"candidates:{name}", "--as", BINARY, "--family", "margins", "--budget", "0.25")
    assert (code, failed(said)) == (0, set())
    assert judge(capsys, f"candidates:{name}", "--as", BINARY, "--budget", "0.25", dtype="float64")[0] == 1


def test_a_planted_bug_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = judge(capsys, "candidates:swapped", "--as", BINARY, "--family", "margins")
    assert code == 1
    assert failed(said) == {("value", "margins")}
    assert "logits = [1.0]" in said  # made small
    assert re.search(r"exact at \[0\]: 1\.3132616\d+; came back: 0\.3132616\d+", said)


def test_a_budget_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    asked = f"candidates:{BINARY}", "--family", "margins", "--family", "vectors"
    assert judge(capsys, *asked, "--budget", "0.51")[0] == 0
    code, said = judge(capsys, *asked, "--budget", "1e-12", dtype="float64")
    assert code == 1
    assert failed(said) == {("value", "margins"), ("value", "vectors")}
    assert "over 1e-12 ULP" in said


def test_torchs_own_cross_entropy(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    path = "torch.nn.functional:cross_entropy"
    code, said = judge(capsys, path, "--backend", "torch:cpu")
    assert code == 1
    # Every digit of a confident right answer is lost; with an infinite logit, it says NaN.
    assert {("value", "margins"), ("d logits", "margins"), ("value", "nonfinite")} <= failed(said)
    assert ("value", "ties") not in failed(said)
    # Options it has by the same names are covered, weights it has by other names are not.
    assert "takes no label_smoothing" not in said
    assert "takes no class_weight, sample_weight" in said


def test_torchs_own_binary_cross_entropy(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    code, said = judge(capsys, f"torch.nn.functional:{BINARY}", "--backend", "torch:cpu", "--family", "options")
    assert "takes no target of kind index (RuntimeError" in said
    assert "takes no sample_weight, where" in said
    assert (code, failed(said)) == (1, {("d logits", "options")})  # sigmoid(x) - y cancels


@pytest.fixture
def _as_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failing cases are told as they are: JAX compiles every smaller one anew, and test_shrink.py is about those."""
    monkeypatch.setattr(failures, "shrink", lambda case, fails: case)


@pytest.mark.usefixtures("_as_found")
def test_optaxs_own_focal_loss(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optax", reason="optax is not installed")
    code, said = judge(capsys, "optax:sigmoid_focal_loss", "--family", "margins", "--family", "soft")
    assert code == 1
    assert {("value", "margins"), ("d logits", "margins"), ("value", "soft")} <= failed(said)
    assert "| jax:cpu" in said


@pytest.mark.usefixtures("_as_found")
def test_kerass_own_with_its_arguments_in_another_order(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "jax"))  # it would look for TensorFlow
    pytest.importorskip("keras", reason="keras is not installed")
    asked = "candidates:keras_cross_entropy", "--as", "cross_entropy", "--family", "ties", "--family", "masked"
    code, said = judge(capsys, *asked)
    assert code == 1
    assert {("value", "masked")} <= failed(said)  # NaN where a class is masked by -inf
    assert "| jax:cpu" in said


def test_defaults_of_ones_own_are_not_relied_on() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    asked = {"dtypes": ["float64"], "families": ["ties"]}
    assert assert_conforms(candidates.torch_cross_entropy, "cross_entropy", **asked) == []
    work, chosen = share.candidate("candidates:torch_cross_entropy", "cross_entropy", Selection(), None)
    assert chosen.backends == ("torch:cpu",)
    assert chosen.modes == ("eager",)
    (one,) = work.implementations()
    assert one.backends == ("torch:cpu",)


def test_a_compiled_mode_is_taken_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optax", reason="optax is not installed")
    path = "optax:sigmoid_binary_cross_entropy"
    code, said = judge(capsys, path, "--as", BINARY, "--mode", "jax.jit", "--family", "probabilities")
    assert (code, "Nothing ran." in said) == (1, True)  # there are no probabilities among logits
    code, said = judge(capsys, path, "--as", BINARY, "--mode", "jax.jit", "--family", "soft")
    assert "| jax:cpu jax.jit" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["candidates:nothing", "--as", "sigmoid"], "no library's arrays are taken: "),
        (["candidates:absent"], "--candidate candidates:absent: "),
        (["no_such_module:f"], "--candidate no_such_module:f: "),
        (["candidates:swapped"], "swapped says nothing of what it is judged as"),
        (["candidates:nothing", "--as", "cross_entropy", "--backend", "numpy"], "numpy: TypeError: not these"),
    ],
)
def test_what_cannot_be_judged_is_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = judge(capsys, *arguments)
    assert code == 2
    assert said in printed


@pytest.mark.parametrize("wrong", [["--as", "sigmoid"], ["--budget", "3"], ["--candidate", "a:b", "--peers"]])
def test_options_that_say_nothing_together(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(wrong)
    assert caught.value.code == 2


# ---------------------------------------------------------------- torch's, optax's and keras's own


def test_the_libraries_own_losses_are_judged_and_the_cases_they_fail_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    losses = (("torch.nn.functional:cross_entropy", "cross_entropy"), ("nowhere:loss", "cross_entropy"))
    monkeypatch.setattr(listed, "LOSSES", losses)
    said = listed.table(Selection(dtypes=("float32",), families=("margins",), quick=True))
    assert "## torch.nn.functional.cross_entropy as cross_entropy\n\nOn torch:cpu: 3 of 3 cases fail;" in said
    assert re.search(r"^\| margins/2 classes\(reduction=none\) \| value: \d+ over 8 ULP, \d+ lost", said, re.MULTILINE)
    assert said.endswith("Not run: nowhere is not installed.")


@pytest.mark.parametrize(("path", "as_"), [loss for loss in listed.LOSSES if loss[0].startswith("conformance.")])
def test_each_loss_of_keras_is_called_as_it_takes_its_arguments(path: str, as_: str) -> None:
    pytest.importorskip("keras")
    jnp = pytest.importorskip("jax.numpy")
    rows = as_ in ("cross_entropy", "softmax_focal_loss")
    logits = jnp.asarray([[0.5, -2.0, 1.0], [3.0, 1.25, 0.0]] if rows else [0.5, -2.0, 3.0])
    target = jnp.asarray([2, 0] if rows else [1.0, 0.0, 1.0])
    found = getattr(listed, path.partition(":")[2])(logits, target)
    right = getattr(arrayloss, as_)(logits, target, reduction="none")
    assert listed.name(path).startswith("keras.losses.")
    assert found.tolist() == pytest.approx(right.tolist(), rel=1e-5)


@pytest.mark.parametrize("name", ["swapped", "swapped_mean"])
def test_the_program_of_a_failure_passes_what_the_function_takes(name: str) -> None:
    # Neither has a reduction, the case says "none", and one reduces all the same.
    one = Selection(dtypes=("float32",), families=("margins",), backends=("numpy",))
    work, chosen = share.candidate(f"candidates:{name}", BINARY, one, None)
    results = [r for done, _ in share.run(share.tasks(work, chosen), workers=1) for r in done]
    (failure,) = failures.gather(results, work.implementations())
    assert failure.snippet
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(failure.snippet, "snippet", "exec"), {})
    came, due = re.findall(r"^(?:came back|exact): +(\S+)$", printed.getvalue(), re.MULTILINE)
    assert (float(came), due) == (float(failure.got), failure.exact)


# ---------------------------------------------------------------- as packages have them


TIES: Any = {"dtypes": ["float32"], "families": ["ties"]}


def test_one_hot_targets_are_made_of_labels_for_a_function_that_takes_no_others() -> None:
    asked: Any = {"gradient": False, "dtypes": ["float32"], "families": ["ties", "soft", "nonfinite"]}
    with pytest.raises(AssertionError, match=r"label 0\(reduction=none\), float32: value: 1 NaN") as caught:
        assert_conforms(candidates.of_shares, "cross_entropy", **asked)
    assert "ties/" not in str(caught.value)
    assert assert_conforms(candidates.of_shares, "cross_entropy", gradient=False, **TIES) == []


def test_a_module_takes_what_its_forward_takes_and_a_class_what_it_is_made_with() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from arrayloss.nn.torch import CrossEntropyLoss, SoftmaxFocalLoss

    assert assert_conforms(torch.nn.CrossEntropyLoss(), "cross_entropy", **TIES) == []
    smoothed = {"dtypes": ["float32"], "families": ["soft"]}
    assert assert_conforms(CrossEntropyLoss, "cross_entropy", **smoothed) == []
    said = assert_conforms(CrossEntropyLoss(), "cross_entropy", **smoothed)
    assert ["takes no label_smoothing" in line for line in said] == [True]
    assert assert_conforms(SoftmaxFocalLoss, "softmax_focal_loss", **TIES) == []
    said = assert_conforms(SoftmaxFocalLoss(), "softmax_focal_loss", dtypes=["float32"], families=["margins"])
    assert [line.partition(": ")[2] for line in said] == ["takes no gamma"] * 2


def test_a_result_of_a_wrong_shape_is_told_as_that() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(AssertionError, match=r"float32: value: shape \(\d, 10\) came back, \(\d,\) was due$"):
        assert_conforms(candidates.whole, "cross_entropy", **TIES)


def keras_first(y_true: Any, y_pred: Any) -> Any:
    """Of probabilities: right in no order."""
    return y_true * y_pred


@pytest.mark.parametrize(("f", "as_"), [(candidates.target_first, "cross_entropy"), (keras_first, BINARY)])
def test_a_target_that_comes_first_is_noticed(f: Any, as_: str) -> None:
    with pytest.raises(ValueError, match=f"{f.__name__} takes the target first"):
        assert_conforms(f, as_, library="numpy", gradient=False)


def test_an_option_that_cannot_be_left_out_is_judged_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = judge(capsys, "candidates:balanced", "--as", "sigmoid_focal_loss", "--family", "margins")
    assert (code, failed(said)) == (0, set())
    assert "in 5 records" in said
    with pytest.raises(AssertionError, match=r"alpha is 0.25 unless given, and can't be None"):
        assert_conforms(candidates.balanced, "sigmoid_focal_loss", library="numpy", gradient=False)


def test_the_users_own_traceback_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    lines = r'File "[^"]*candidates.py", line \d+, in inner\n +return x.no_such_thing\n'
    code, said = judge(capsys, "candidates:raises", "--as", BINARY, "--backend", "numpy")
    assert code == 2
    assert re.search(lines, said)
    assert "_try" not in said  # from there on, not how it was called
    code, said = judge(capsys, "candidates:raises_at_times", "--as", BINARY, "--family", "nonfinite")
    assert code == 1
    assert re.search(lines, said)
    for f, error in ((candidates.raises, ValueError), (candidates.raises_at_times, AssertionError)):
        with pytest.raises(error) as caught:
            assert_conforms(f, BINARY, library="numpy", gradient=False)
        cause = caught.value.__cause__
        assert isinstance(cause.exceptions[0] if isinstance(cause, ExceptionGroup) else cause, AttributeError)


def test_a_candidate_of_jax_is_compiled_whole() -> None:
    pytest.importorskip("optax", reason="optax is not installed")
    path = "optax:sigmoid_binary_cross_entropy"
    work, chosen = share.candidate(path, BINARY, Selection(quick=True), None)
    assert (chosen.modes, chosen.dtypes) == (("jax.jit",), ("float32", "bfloat16"))
    assert work.left_out.startswith("float16")
    _, chosen = share.candidate(path, BINARY, Selection(modes=("eager",)), None)
    assert chosen.modes == ("eager",)


def test_the_example_is_the_most_ordinary_of_those_that_lose_as_many_digits() -> None:
    one = Selection(dtypes=("float64",), families=("margins",), backends=("numpy",))
    work, chosen = share.candidate("broken:cross_entropy", "cross_entropy", one, None)
    results = [r for done, _ in share.run(share.tasks(work, chosen), workers=1) for r in done]
    finite = [r for r in results if r.measured and not (r.measured.spurious or r.measured.missing)]
    finite = finite or [dataclasses.replace(r, measured=dataclasses.replace(r.measured, spurious=0)) for r in results]
    (failure,) = failures.gather(finite, work.implementations())
    (row,) = ast.literal_eval(failure.inputs["logits"])
    assert max(row) - min(row) <= 40  # where all digits are lost; inputs go up to 1e4
    assert failure.after_k is not None
    assert failure.after_k >= 1e8  # half of the digits of a float64


def test_lost_digits_are_not_shown_by_a_record_that_is_hardly_over_budget() -> None:
    one = Selection(dtypes=("float32",), families=("margins",), backends=("numpy",))
    work, chosen = share.candidate(f"candidates:{BINARY}", BINARY, one, 1e-6)
    (near,) = [r for done, _ in share.run(share.tasks(work, chosen), workers=1) for r in done]
    assert near.measured is not None
    far = dataclasses.replace(
        near, measured=dataclasses.replace(near.measured, after_k=1e6, worst=1e6), dtype="float16"
    )
    assert failures._plainest([near, far]) is far
    alike = dataclasses.replace(far, dtype="float32")
    assert failures._plainest([near, far, alike]) is alike


def test_the_focal_losses_of_kornia() -> None:
    losses = pytest.importorskip("kornia.losses", reason="kornia is not installed")
    with pytest.raises(AssertionError, match=r"value: shape \(\d, 10\) came back, \(\d,\) was due"):
        assert_conforms(losses.focal_loss, "softmax_focal_loss", **TIES)

    def judged(logits: Any, target: Any, gamma: float = 2.0) -> Any:
        return losses.focal_loss(logits, target, None, gamma).sum(1)

    assert assert_conforms(judged, "softmax_focal_loss", **TIES) == []
    binary, soft = losses.binary_focal_loss_with_logits, {"dtypes": ["float32"], "families": ["soft"]}
    (said,) = assert_conforms(binary, "sigmoid_focal_loss", **soft)  # of samples with an axis more
    assert said.endswith("takes no label_smoothing")
    with pytest.raises(AssertionError, match="judged is no softmax_focal_loss on torch:cpu: 3 of 3 cases fail"):
        assert_conforms(judged, "softmax_focal_loss", dtypes=["float32"], families=["margins"])


def test_the_focal_losses_of_monai() -> None:
    losses = pytest.importorskip("monai.losses.focal_loss", reason="MONAI is not installed")
    with pytest.raises(AssertionError, match=r"value: shape \(\d, 10\) came back, \(\d,\) was due"):
        assert_conforms(losses.softmax_focal_loss, "softmax_focal_loss", **TIES)

    def judged(logits: Any, target: Any, gamma: float = 2.0) -> Any:
        return losses.softmax_focal_loss(logits, target, gamma).sum(1)

    assert assert_conforms(judged, "softmax_focal_loss", **TIES) == []  # of labels, made one-hot
    with pytest.raises(AssertionError, match="sigmoid_focal_loss is no sigmoid_focal_loss on torch:cpu: 3 of 3"):
        assert_conforms(losses.sigmoid_focal_loss, dtypes=["float32"], families=["margins"])
    module = losses.FocalLoss(reduction="none")
    with pytest.raises(AssertionError, match="FocalLoss is no sigmoid_focal_loss on torch:cpu: 1 of 1 cases fail, 2"):
        assert_conforms(module, "sigmoid_focal_loss", dtypes=["float32"], families=["margins"])
