"""The report: what its files hold, what two of them tell, and the page in a browser."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import broken
import numpy as np
import pytest

import arrayloss as package
from arrayloss.testing import FORMATS, Case, Due, Exact, Implementation, Measurement
from conformance import compare, curves, failures, page, peers, report, runner
from conformance.__main__ import main
from conformance.backends import arrayloss
from conformance.cases import cases
from conformance.oracle import exact
from conformance.runner import Result, Selection, Spreads

ASKED = Selection(
    ("sigmoid", "cross_entropy"),
    ("numpy", "array-api-strict", "cupy"),
    ("eager",),
    ("float32", "float64"),
    ("margins",),
)


@pytest.fixture(scope="module")
def sound() -> tuple[list[Result], dict[str, Any]]:
    """A run without failures, with peers drawn beside it."""
    spreads: Spreads = {}
    results = list(runner.run([arrayloss()], runner.selected_cases(ASKED), ASKED, spreads))
    beside = [r for one in peers.peers() if one.name == "scipy" for r in runner.judge(one, ASKED)]
    return results, report.document(results, list(spreads.values()), [], "Conformance", {"Left out": "This."}, beside)


@pytest.fixture(scope="module")
def faulty() -> tuple[list[Result], list[failures.Failure], dict[str, Any]]:
    """The same by functions that are broken, one of which takes no float64."""
    functions = {"sigmoid": broken.sigmoid, "cross_entropy": broken.cross_entropy}

    def not_covered(case: Case) -> str | None:
        return "takes no <float64>" if case.function == "sigmoid" and case.dtype == "float64" else None

    one = Implementation("arrayloss", functions, backends=("numpy",), not_covered=not_covered)
    results = runner.judge(one, ASKED)
    failed = failures.gather(results, [one])
    return results, failed, report.document(results, [], failed, "Broken", {})


# ---------------------------------------------------------------- results.json


def test_the_document_is_plain_json_and_reads_back(sound: tuple[list[Result], dict[str, Any]], tmp_path: Path) -> None:
    results, found = sound
    report.write(found, results, [], tmp_path)
    assert compare.read(tmp_path / "results.json") == json.loads(json.dumps(found, allow_nan=False))
    assert {p.name for p in tmp_path.iterdir()} == {"index.html", "results.json", "summary.md"}
    assert "cross_entropy" in (tmp_path / "summary.md").read_text()


def test_it_says_when_on_what_and_with_which_versions(sound: tuple[list[Result], dict[str, Any]]) -> None:
    about = sound[1]["about"]
    assert sound[1]["schema"] == compare.SCHEMA
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", about["date"])
    assert about["versions"]["numpy"] == np.__version__
    assert set(about["devices"]) == {"cpu"}


def test_cells_and_records_hold_every_result(sound: tuple[list[Result], dict[str, Any]]) -> None:
    results, found = sound
    ran = [r for r in results if r.mode]
    assert len(found["records"]) == len(ran) == sum(c["records"] for c in found["cells"])
    assert sum(c["numbers"] for c in found["cells"]) == sum(r.measured.count for r in ran if r.measured)
    rows = [dict(zip(found["record_fields"], row, strict=False)) for row in found["records"]]
    for cell_at, cell in enumerate(found["cells"]):
        mine = [
            r for r in ran if (r.function, r.dtype, r.backend) == (cell["function"], cell["dtype"], cell["backend"])
        ]
        worst = max(r.measured.after_k / r.budget for r in mine if r.measured)
        assert cell["share"] == pytest.approx(worst, rel=1e-3)
        labels = {found["cases"][row["case"]] for row in rows if row["cell"] == cell_at}
        assert labels == {r.case for r in mine}


def test_a_backend_that_is_not_here_is_said_to_be_missing(sound: tuple[list[Result], dict[str, Any]]) -> None:
    missing = {b["name"]: b["missing"] for b in sound[1]["backends"]}
    assert missing["numpy"] is None
    if "cupy" in {r.backend for r in sound[0] if not r.mode}:
        assert missing["cupy"]


def test_what_is_not_covered_is_counted_with_its_reason(faulty: tuple[Any, Any, dict[str, Any]]) -> None:
    (cell,) = [c for c in faulty[2]["cells"] if (c["function"], c["dtype"]) == ("sigmoid", "float64")]
    assert cell["records"] == 0
    assert cell["not_covered"] == {"takes no <float64>": 1}


def test_a_cell_has_the_error_as_measured_first_and_says_what_is_left_after_k() -> None:
    def one(worst: float, after_k: float, quantity: str = "value") -> Result:
        found = Measurement(1, worst, after_k, 0, 0, 0, 0, 0, 0)
        return Result("", "softmax", "numpy", "eager", "float32", quantity, "", "", "ok", measured=found)

    assert report.cell([one(20, 1.5), one(3, 2.5), one(7, 0.5, "d logits")]) == "20.0 / 7.0 (after k 2.5 / 0.5)"
    assert report.cell([one(0.5, 0.5)]) == "0.5"
    assert "as measured" in report.LEGEND


def test_the_readme_table_is_made_from_a_results_file(sound: tuple[list[Result], dict[str, Any]]) -> None:
    page = f"# Title\n\n{report.START}\nold\n{report.END}\n\nThe rest.\n"
    made = report.readme(sound[1], page)
    assert made.startswith("# Title\n\n")
    assert made.endswith("\n\nThe rest.\n")
    assert "old" not in made
    assert re.search(r"^\| `cross_entropy` \| [\d.]+ / [\d.]+ \([\d.]+ / [\d.]+\) \| - \|", made, re.M)
    assert report.readme(sound[1], made) == made
    with pytest.raises(ValueError, match="no block"):
        report.readme(sound[1], "# Title")


def test_the_readme_has_the_block() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    assert report.START in text
    assert report.END in text


# ---------------------------------------------------------------- curves


def test_every_margin_lies_within_its_bin() -> None:
    margin = np.concatenate([-np.geomspace(9.9e3, 1e-8, 500), [0.0], np.geomspace(1e-8, 9.9e3, 500)])
    bins = curves.binned(margin)
    assert np.all(np.diff(bins) >= 0)
    assert bins[500] == 0
    middle = np.sign(bins) * 1e-8 * 10 ** ((np.abs(bins) - 0.5) / curves.PER_DECADE)
    assert np.all(np.abs(np.log10(middle[middle != 0] / margin[middle != 0])) <= 0.51 / curves.PER_DECADE)


def test_the_margin_is_that_of_the_label() -> None:
    rows = np.asarray([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0]])

    def margins(function: str, x: Any, target: Any = None, cotangent: Any = None) -> list[float]:
        arrays = {"logits": x} | ({} if target is None else {"target": np.asarray(target)})
        found: list[float] = curves.margins(Case(function, "", "", "float32", arrays, cotangent=cotangent)).tolist()
        return found

    assert margins("cross_entropy", rows, [1.0, 0.0]) == [2, -3]
    assert margins("softmax", rows, cotangent=np.eye(3)[[1, 0]]) == [2, -3]
    assert margins("logsumexp", rows, cotangent=np.ones(2)) == [2, 2]
    assert margins("sigmoid_focal_loss", rows[0], [1.0, 0.0, 1.0]) == [1, -4, 2]
    assert margins("binary_cross_entropy", np.asarray([0.25, 0.25]), [1.0, 0.0]) == pytest.approx(
        [-np.log(3), np.log(3)]
    )
    assert margins("softmax", rows[None]) == []


def test_points_hold_the_worst_of_a_bin_and_what_is_not_finite() -> None:
    case = Case("sigmoid", "", "", "float32", {"logits": np.asarray([1.0, 1.01, -3.0, 5.0])})
    answer = Exact(np.asarray([1.0, 1.0, 1.0, 1e-40]), np.zeros(4), np.ones(4))
    answer = replace(answer, scale=np.abs(answer.high))
    got = np.asarray([1.0, 1 + 3 * FORMATS["float32"].epsilon, np.nan, 0.0])
    table = curves.points(case, got, Due(answer, "float32", 3.0, np.asarray(1.0), 1))
    assert table[:, 1].tolist() == [np.inf, 3.0]  # the last is below the smallest normal number
    assert table[:, 2].tolist() == [4.0, 4.0]


def test_a_naive_formula_loses_every_digit_where_ours_does_not(
    sound: tuple[list[Result], dict[str, Any]], faulty: tuple[Any, Any, dict[str, Any]]
) -> None:
    (bin_of_20,) = curves.binned(np.asarray([20.0]))

    def beyond(found: dict[str, Any]) -> list[float | None]:
        of = [c for c in found["curves"] if (c["function"], c["dtype"]) == ("cross_entropy", "float32")]
        return [p[1] for c in of if c["quantity"] == "value" for p in c["points"] if p[0] > bin_of_20]

    assert all(error is None or error > 2**22 for error in beyond(faulty[2]))
    assert all(error is not None and error < 100 for error in beyond(sound[1]))
    assert beyond(sound[1])


# ---------------------------------------------------------------- two of them


def test_what_is_the_same_changed_nowhere(sound: tuple[list[Result], dict[str, Any]]) -> None:
    compared = compare.compare(sound[1], sound[1])
    assert compared["changes"] == compared["came"] == compared["went"] == []
    assert compared["same"] == 8
    assert not compare.newly_failing(compared)


def test_worse_better_new_and_missing_are_told_apart(sound: tuple[list[Result], dict[str, Any]]) -> None:
    old, new = copy.deepcopy(sound[1]), copy.deepcopy(sound[1])
    values = [next(q for q in c["quantities"] if q["quantity"] == "value") for c in new["cells"]]
    values[0]["after_k"] += 1
    values[1]["after_k"] -= 0.2
    values[2]["after_k"] += compare.NOTICED / 2
    del new["cells"][-1], old["cells"][3]
    compared = compare.compare(old, new)
    assert [c["what"] for c in compared["changes"]] == ["worse", "better", "new", "missing"]
    assert compared["same"] == 4
    worse = compared["changes"][0]
    assert worse["value"][1] - worse["value"][0] == pytest.approx(1)
    told = compare.told(compared)
    assert "| worse | " in told
    assert re.search(r"after k: \d", told)


def test_failures_that_came_and_went(
    sound: tuple[list[Result], dict[str, Any]], faulty: tuple[Any, Any, dict[str, Any]]
) -> None:
    forth, back = compare.compare(sound[1], faulty[2]), compare.compare(faulty[2], sound[1])
    assert {c["what"] for c in forth["changes"]} == {"fails now", "missing"}
    assert {c["what"] for c in back["changes"]} == {"mended", "new"}
    assert forth["came"] == back["went"]
    assert forth["came"]
    assert forth["went"] == back["came"] == []
    assert compare.newly_failing(forth)
    assert not compare.newly_failing(back)


def test_what_was_not_run_again_is_not_mended(faulty: tuple[Any, Any, dict[str, Any]]) -> None:
    less = copy.deepcopy(faulty[2])
    kept = [i for i, c in enumerate(less["cells"]) if c["function"] != "sigmoid"]
    less["records"] = [[kept.index(r[0]), *r[1:]] for r in less["records"] if r[0] in kept]
    less["cells"] = [less["cells"][i] for i in kept]
    assert compare.compare(faulty[2], less)["went"] == []


@pytest.mark.parametrize("text", ['{"about": {"schema": 2}}', "[]", "no json"])
def test_a_file_of_another_kind_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "old.json"
    file.write_text(text)
    assert main(["--compare", str(file)]) == 2
    assert str(file) in capsys.readouterr().err


COMMAND = ["--backend", "numpy", "--dtype", "float32", "--function", "cross_entropy", "--family", "margins"]


def test_the_command_writes_a_report_and_compares_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn, whose curve is drawn too, is not installed")
    old, new = tmp_path / "old", tmp_path / "new"
    assert main([*COMMAND, "--report", str(old)]) == 0
    assert main([*COMMAND, "--compare", str(old / "results.json")]) == 0
    assert re.search(r"after k: \d", capsys.readouterr().out)
    drawn = {c["implementation"] for c in compare.read(old / "results.json")["curves"]}
    assert drawn == {"arrayloss", "scikit-learn"}  # the one library that has a cross-entropy on NumPy arrays

    monkeypatch.setattr(package, "cross_entropy", broken.cross_entropy)
    monkeypatch.setattr(package, "value_and_grad", None)
    assert main([*COMMAND, "--compare", str(old / "results.json"), "--report", str(new)]) == 1
    said = capsys.readouterr().out
    assert "fails now" in said
    assert "arrayloss.cross_entropy(logits, target" in said
    assert "fails now" in (new / "summary.md").read_text()
    both = [str(old / "results.json"), str(new / "results.json")]
    assert main(["--compare", *both]) == 1
    assert main(["--compare", *reversed(both)]) == 0
    with pytest.raises(SystemExit):
        main(["--compare", *both, both[0]])


# ---------------------------------------------------------------- the page


def test_the_page_needs_nothing_else(faulty: tuple[Any, Any, dict[str, Any]]) -> None:
    text = page.render(faulty[2])
    assert set(re.findall(r"https?://[^\"'\s]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|script|img|iframe)[^>]*\b(src|href)=\"(?!data:)", text)
    assert "@import" not in text
    assert "{{" not in text


def test_nothing_that_an_implementation_says_can_end_the_data(sound: tuple[list[Result], dict[str, Any]]) -> None:
    found = copy.deepcopy(sound[1])
    found["cells"][0]["not_covered"] = {"</script><script>alert(1)</script><!--": 1}
    text = page.render(found)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert data is not None
    assert json.loads(data[1])["cells"] == found["cells"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    selenium = pytest.importorskip("selenium", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Chromium and its driver are not here")
    from selenium import webdriver

    assert selenium
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"):
        options.add_argument(f"--{argument}")
    for argument in ("disable-background-networking", "disable-component-update"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


def seen(browser: Any, width: int, scheme: str, file: Path) -> None:
    """Open the page in a window of some width, light or dark."""
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(file.as_uri())
    assert browser.get_log("browser") == []


def overflows(browser: Any, selector: str) -> bool:
    measure = "const e = document.querySelector(arguments[0]); return [e.scrollWidth, e.clientWidth]"
    wide, room = browser.execute_script(measure, selector)
    return bool(wide > room)


@pytest.fixture(scope="module")
def files(
    sound: tuple[list[Result], dict[str, Any]],
    faulty: tuple[list[Result], list[failures.Failure], dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    found = {}
    compared = {**faulty[2], "compared": compare.compare(sound[1], faulty[2])}
    for name, document, results, failed in (
        ("sound", sound[1], sound[0], []),
        ("faulty", compared, faulty[0], faulty[1]),
    ):
        report.write(document, results, failed, folder := tmp_path_factory.mktemp(name))
        found[name] = folder / "index.html"
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["sound", "faulty"])
def test_the_page_opens_and_a_cell_tells_its_detail(
    name: str, width: int, scheme: str, browser: Any, files: dict[str, Path]
) -> None:
    from selenium.webdriver.common.by import By

    seen(browser, width, scheme, files[name])
    assert not overflows(browser, "html")
    (cell,) = browser.find_elements(By.CSS_SELECTOR, "button[aria-label^='cross_entropy on numpy, float32']")
    cell.click()
    detail = browser.find_element(By.ID, "detail")
    assert detail.is_displayed()
    assert "on numpy, float32" in detail.text
    assert ("Within budget" if name == "sound" else "3 of 3 records failed") in detail.text
    assert "margins" in detail.text
    assert detail.find_elements(By.CSS_SELECTOR, "svg[role=img] path.line")
    assert not overflows(browser, "#detail")
    detail.find_element(By.CSS_SELECTOR, "button[aria-label=Close]").click()
    assert not detail.is_displayed()
    assert browser.get_log("browser") == []


def test_a_run_of_nothing_has_a_page_too(browser: Any, tmp_path: Path) -> None:
    report.write(report.document([], [], [], "Nothing", {}), [], [], tmp_path)
    seen(browser, 390, "light", tmp_path / "index.html")
    assert "0 cells judged" in browser.page_source


def test_the_keyboard_goes_from_cell_to_cell(browser: Any, files: dict[str, Path]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    seen(browser, 1280, "light", files["sound"])
    (first,) = browser.find_elements(By.CSS_SELECTOR, "button[aria-label^='sigmoid on numpy']")
    first.send_keys(Keys.ARROW_RIGHT)
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    focused = browser.switch_to.active_element
    assert focused.get_attribute("aria-label").startswith("cross_entropy on array-api-strict, float32")
    focused.send_keys(Keys.ENTER)
    assert "on array-api-strict" in browser.find_element(By.ID, "detail").text
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not browser.find_element(By.ID, "detail").is_displayed()
    assert browser.switch_to.active_element == focused


def test_the_switches_change_what_is_shown(browser: Any, files: dict[str, Path]) -> None:
    from selenium.webdriver.common.by import By

    seen(browser, 1280, "light", files["sound"])
    (cell,) = browser.find_elements(By.CSS_SELECTOR, "button[aria-label^='cross_entropy on numpy']")
    before = cell.text
    browser.find_element(By.XPATH, "//label[span='left after k']").click()
    (cell,) = browser.find_elements(By.CSS_SELECTOR, "button[aria-label^='cross_entropy on numpy']")
    assert cell.text != before
    browser.find_element(By.XPATH, "//label[span='float64']").click()
    assert browser.find_elements(By.CSS_SELECTOR, "button[aria-label^='cross_entropy on numpy, float64']")
    checked = browser.find_elements(By.CSS_SELECTOR, "input[value=float64]:checked")
    assert len(checked) == len(browser.find_elements(By.CSS_SELECTOR, "input[value=float64]"))


def test_the_page_shows_failures_changes_and_what_was_not_run(browser: Any, files: dict[str, Path]) -> None:
    from selenium.webdriver.common.by import By

    seen(browser, 390, "light", files["faulty"])
    text = browser.find_element(By.TAG_NAME, "main").text
    assert "fails now" in text
    assert "takes no <float64>" in browser.find_element(By.ID, "report").get_attribute("textContent")
    if "cupy" in text:
        assert "not run here" in text
    (program, *_) = browser.find_elements(By.CSS_SELECTOR, "#failure-0 pre")
    assert "import broken" in program.text
    seen(browser, 1280, "light", files["sound"])
    legend = browser.find_element(By.CSS_SELECTOR, "section[aria-label=sigmoid] .lines").text
    assert "arrayloss" in legend
    assert "scipy" in legend


def test_the_budget_drawn_is_the_one_in_force(sound: tuple[list[Result], dict[str, Any]]) -> None:
    (curve,) = [
        c for c in sound[1]["curves"]
        if (c["implementation"], c["function"], c["dtype"], c["backend"], c["quantity"])
        == ("arrayloss", "sigmoid", "float32", "numpy", "value")
    ]  # fmt: skip
    assert {allowed for _, _, allowed in curve["points"]} == {4.0}
    case = next(c for c in cases("sigmoid", "float32") if c.family == "margins")
    shown = exact(case)["value"].high >= FORMATS["float32"].tiny
    assert len(curve["points"]) == len(np.unique(curves.binned(curves.margins(case)[shown])))
