"""Many pictures: rows, intervals, significance, and going on where work stopped."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import scipy.stats

from core import METHODS, METRICS, Explainer, cli
from core.errors import TimmscopeError
from core.evaluation.evaluate import annotation_finder, evaluate, picture_files
from core.evaluation.journal import Journal, JsonLines
from core.evaluation.rows import Row, write_rows
from core.evaluation.statistics import RESAMPLES, advice, holm, interval, sign_flip, summary
from core.methods.base import control_keys

SAMPLES = Path(__file__).parents[1] / "assets" / "samples"
CONTROLS = set(control_keys())


def rows_of(lite0: Explainer, *pictures: Path, **question: Any) -> list[Row]:
    methods = [METHODS.make("gradcam"), METHODS.make("attention")]
    metrics = [METRICS.make("complexity"), METRICS.make("srg", {"steps": 2})]
    return list(evaluate(lite0, pictures, methods, metrics, **question))


def test_a_row_for_everything_and_reasons_where_there_is_no_score(
    lite0: Explainer, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    rows = rows_of(lite0, SAMPLES / "coffee.jpg", bad)
    assert len(rows) == len({row.key for row in rows}) == 2 * 2 * (2 + len(CONTROLS))
    for row in rows:
        if "bad" in row.picture:
            assert "bad.jpg" in row.error
        elif row.method == "attention":
            assert "softmax attention" in row.error
        else:
            assert row.value is not None
            assert not row.error
            assert row.target.startswith("logit")
    (gradcam,) = (r for r in rows if (r.method, r.metric) == ("gradcam", "srg") and not r.error)
    direct = lite0.measure(
        SAMPLES / "coffee.jpg", lite0.explain(SAMPLES / "coffee.jpg"), "srg", steps=2
    )
    assert gradcam.value == pytest.approx(direct.value.item())


def test_what_is_done_is_not_done_again(lite0: Explainer) -> None:
    rows = rows_of(lite0, SAMPLES / "coffee.jpg")
    done = {row.key for row in rows[:5]}
    assert [r.key for r in rows_of(lite0, SAMPLES / "coffee.jpg", done=done)] == [
        r.key for r in rows[5:]
    ]


def test_rows_say_where_methods_stand_among_random_maps(lite0: Explainer) -> None:
    for row in rows_of(lite0, SAMPLES / "coffee.jpg", random_maps=4):
        stands = row.method == "gradcam"
        assert (row.percentile is not None) == stands, row
        assert row.percentile in {None, *(12.5 * i for i in range(9))}


def test_folders_give_their_pictures_by_name(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in picture_files([tmp_path, Path("x.jpg")])] == ["a.PNG", "b.jpg", "x.jpg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(TimmscopeError, match="no pictures"):
        picture_files([tmp_path / "empty"])
    (tmp_path / "a.xml").write_text("")
    assert annotation_finder(tmp_path)(Path("elsewhere/a.jpg")) == tmp_path / "a.xml"
    assert annotation_finder(tmp_path)(Path("elsewhere/b.jpg")) is None


# -- what rows say together -----------------------------------------------------------------------


def made(scores: dict[str, list[float]], metric: str = "srg") -> list[Row]:
    return [
        Row(f"{i}.jpg", method, metric, value, forward=10 if method == "gradcam" else 100)
        for method, values in scores.items()
        for i, value in enumerate(values)
    ]


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    samples = rng.normal(0.3, 1, size=(300, 60))
    held = [low <= 0.3 <= high for low, high in map(interval, samples)]
    assert np.mean(held) == pytest.approx(0.94, abs=0.03)


def test_an_interval_is_that_of_resampled_means_and_always_the_same() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, size=30)
    drawn = np.random.default_rng(7).choice(values, size=(20000, 30)).mean(1)
    assert interval(values) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.03)
    assert interval(values) == interval(values)
    assert interval(np.array([0.25])) == (0.25, 0.25)
    assert interval(np.full(5, 0.25)) == (0.25, 0.25)


def test_sign_flips_are_counted() -> None:
    rng = np.random.default_rng(2)
    for count in (2, 6, 10):
        differences = rng.normal(0.2, 1, size=count)
        signs = np.array(list(itertools.product((1, -1), repeat=count)))
        reached = abs((signs * differences).mean(1)) >= abs(differences.mean()) - 1e-12
        assert sign_flip(differences) == pytest.approx(reached.mean())
    differences = rng.normal(0.2, 1, size=40)
    exact = scipy.stats.ttest_1samp(differences, 0).pvalue
    assert sign_flip(differences) == pytest.approx(exact, abs=0.03)
    assert 0 < sign_flip(np.full(40, 0.1)) <= 1 / 1000, "never 0"
    assert sign_flip(np.zeros(5)) == sign_flip(np.array([3.0])) == 1


def test_holms_adjustment_never_falls_and_never_exceeds_one() -> None:
    assert holm([0.5, 0.001, 0.2]) == pytest.approx([0.5, 0.003, 0.4])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def flipped(differences: np.ndarray) -> float:
    """The p-value by its definition: the share of all signs that give as large a mean."""
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    sums = abs(signs @ differences)
    return float(np.mean(sums >= abs(differences.sum()) - 1e-9))


@pytest.mark.parametrize("count", range(1, 11))
def test_all_signs_of_few_differences_give_the_exact_p(count: int) -> None:
    for differences in (
        np.random.default_rng(count).normal(0.3, 1, size=count),
        np.round(np.random.default_rng(count).normal(0.3, 1, size=count)),  # many ties
    ):
        assert sign_flip(differences) == pytest.approx(flipped(differences), abs=1e-12)
    assert sign_flip(np.ones(count)) == pytest.approx(2 / 2**count)


@pytest.mark.parametrize("count", [11, 12, 40, 400])
def test_signs_at_random_count_the_ones_found_among_them(count: int) -> None:
    assert RESAMPLES < 2**11
    differences = np.random.default_rng(count).normal(0.2, 1, size=count)
    reached = sign_flip(differences) * (RESAMPLES + 1)
    assert reached == pytest.approx(round(reached), abs=1e-6)
    assert reached >= 1, "the signs found are one of the possible ones"
    signs = np.random.default_rng(0).choice((1, -1), size=(20 * RESAMPLES, count))
    share = np.mean(abs(signs @ differences) >= abs(differences.sum()) - 1e-9)
    noise = 4 * (share * (1 - share) / RESAMPLES) ** 0.5 + 1 / RESAMPLES
    assert sign_flip(differences) == pytest.approx(float(share), abs=noise)
    if count < 14:
        assert sign_flip(differences) == pytest.approx(flipped(differences), abs=0.03)


def test_no_p_is_zero_and_none_exceeds_one() -> None:
    assert sign_flip(np.ones(400)) == pytest.approx(1 / (RESAMPLES + 1))
    for count in (3, 40):
        assert sign_flip(np.zeros(count)) == 1
    for differences in (np.arange(1.0, 9), np.arange(-20.0, 30)):
        assert sign_flip(differences) == sign_flip(-differences), "it is two-sided"


def test_an_interval_is_the_middle_95_percent_of_resampled_means() -> None:
    # The mean of 16 draws from as many zeros as ones is a sixteenth of a binomial number.
    even = np.array([0.0, 1.0] * 8)
    expected = scipy.stats.binom(16, 0.5).ppf([0.025, 0.975]) / 16
    assert interval(even) == pytest.approx(tuple(expected))
    assert interval(even + 10) == pytest.approx(tuple(expected + 10))
    assert interval(np.array([0.25])) == (0.25, 0.25)
    skewed = np.random.default_rng(3).exponential(size=50)
    theirs = scipy.stats.bootstrap(
        (skewed,), np.mean, n_resamples=20000, method="percentile", rng=4
    ).confidence_interval
    assert interval(skewed) == pytest.approx(tuple(theirs), abs=0.02)


def stepped_down(values: Sequence[float]) -> list[float]:
    """Holm's adjustment by its definition, each value apart from the others."""
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return [
        max(
            min(1.0, (len(values) - rank) * p)
            for p, rank in zip(values, ranks, strict=True)
            if rank <= own
        )
        for own in ranks
    ]


@pytest.mark.parametrize("seed", range(6))
def test_holms_adjustment_is_as_defined_monotone_and_in_the_order_given(seed: int) -> None:
    values = np.random.default_rng(seed).choice([0.001, 0.004, 0.01, 0.02, 0.3], size=9).tolist()
    found = holm(values)
    assert found == pytest.approx(stepped_down(values))
    for p, adjusted in zip(values, found, strict=True):
        assert p <= adjusted <= 1
        assert all(adjusted <= b for q, b in zip(values, found, strict=True) if q > p)
    shuffled = np.random.default_rng(seed).permutation(9)
    moved = holm([values[i] for i in shuffled])
    assert sorted(moved) == pytest.approx(sorted(found))


def test_equal_p_values_are_adjusted_alike() -> None:
    assert holm([0.01, 0.02, 0.01]) == pytest.approx([0.03, 0.03, 0.03])


def priced(costs: dict[str, tuple[int, int]], scores: dict[str, list[float]]) -> list[Row]:
    return [
        Row(f"{i}.jpg", method, "srg", value, forward=costs[method][0], backward=costs[method][1])
        for method, values in scores.items()
        for i, value in enumerate(values)
    ]


def test_a_backward_pass_counts_as_two_forward_ones_when_the_cheapest_is_named() -> None:
    level = {"saliency": [0.5, 0.6, 0.7], "occlusion": [0.6, 0.5, 0.7]}
    costs = {"saliency": (10, 10), "occlusion": (25, 0)}  # 30 and 25
    better = {**level, "saliency": [0.6, 0.6, 0.7]}
    found = summary(priced(costs, better))["srg"]["advice"]
    assert "occlusion is not clearly worse, at 83% of the cost" in found
    better = {**level, "occlusion": [0.6, 0.6, 0.7]}
    found = summary(priced(costs, better))["srg"]["advice"]
    assert found.endswith("no clear difference from saliency")


def test_of_several_the_cheapest_is_named_by_forward_and_backward_rows() -> None:
    scores = {
        "layercam": [0.6, 0.6, 0.7],
        "saliency": [0.5, 0.6, 0.7],
        "occlusion": [0.6, 0.5, 0.7],
    }
    costs = {"layercam": (100, 0), "saliency": (10, 10), "occlusion": (25, 0)}
    found = summary(priced(costs, scores))["srg"]["advice"]
    assert "occlusion is not clearly worse, at 25% of the cost" in found


def test_a_row_counts_the_rows_of_the_map_and_of_the_score(lite0: Explainer) -> None:
    fresh = Explainer(lite0.model)
    picture = SAMPLES / "coffee.jpg"
    methods = [METHODS.make("integrated_gradients", {"steps": 3})]
    metrics = [METRICS.make("max_sensitivity", {"samples": 2})]
    row, *_ = evaluate(fresh, [picture], methods, metrics)
    other = Explainer(lite0.model)
    other.predict(picture)  # asked before anything is drawn, and counted in no row
    answer = other.explain(picture, methods[0])
    score = other.measure(picture, answer, metrics[0])
    assert row.forward == answer.cost.forward + score.cost.forward
    assert row.backward == answer.cost.backward + score.cost.backward == 3 + 2 * 3


def test_pairs_are_compared_on_the_pictures_that_both_have() -> None:
    rows = made({"gradcam": [0.1, 0.2, 0.3, 0.9], "random": [0.0, 0.0, 0.0]})
    (pair,) = summary(rows)["srg"]["pairs"]
    assert pair["pictures"] == 3
    assert pair["difference"] == pytest.approx(0.2)
    assert pair["p"] == pytest.approx(2 / 2**3)
    apart = [Row("a.jpg", "gradcam", "srg", 0.1), Row("b.jpg", "random", "srg", 0.2)]
    assert summary(apart)["srg"]["pairs"] == []


def test_the_p_values_of_a_metrics_pairs_are_adjusted_together() -> None:
    scores = {
        "gradcam": [0.5, 0.6, 0.7, 0.9, 0.8],
        "saliency": [0.4, 0.2, 0.6, 0.7, 0.75],
        "random": [0.0, 0.1, 0.0, 0.2, 0.1],
    }
    pairs = summary(made(scores))["srg"]["pairs"]
    alone = [sign_flip(np.subtract(scores[a], scores[b])) for a, b in (p["methods"] for p in pairs)]
    assert [pair["p"] for pair in pairs] == pytest.approx(stepped_down(alone))


@pytest.mark.parametrize(
    ("low", "high", "apart"),
    [(1e-9, 1, True), (0, 1, False), (-1, 0, False), (-1, -1e-9, True), (-1, 1, False)],
)
def test_methods_are_apart_only_if_zero_lies_outside_the_interval(
    low: float, high: float, apart: bool
) -> None:
    means = {"gradcam": {"mean": 0.5}, "saliency": {"mean": 0.4}}
    pairs = [{"methods": ["saliency", "gradcam"], "low": low, "high": high}]
    passes = {"gradcam": [1], "saliency": [1]}
    told = advice("srg", ["gradcam", "saliency"], means, pairs, passes)
    assert told.endswith(
        "clearly better than all others" if apart else "no clear difference from saliency"
    )


def test_a_summary_ranks_with_a_reason() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 20)
    scores = {
        "layercam": (0.50 + noise).tolist(),
        "gradcam": (0.50 + noise[::-1] - 0.001).tolist(),
        "random": noise.tolist(),
    }
    found = summary(made(scores))["srg"]
    assert found["ranking"][-1] == "random"
    assert found["methods"]["random"]["pictures"] == 20
    apart = next(p for p in found["pairs"] if set(p["methods"]) == {"layercam", "random"})
    assert apart["low"] > 0.4
    assert apart["p"] < 0.01
    level = next(p for p in found["pairs"] if set(p["methods"]) == {"layercam", "gradcam"})
    assert level["low"] < 0 < level["high"]
    assert "gradcam is not clearly worse, at 10% of the cost" in found["advice"]


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({"random": [0.5, 0.6, 0.7], "gradcam": [0.1, 0.2, 0.3]}, "it ignores the model"),
        ({"gradcam": [0.5, 0.1, 0.7], "sobel": [0.4, 0.6, 0.2]}, "the control sobel"),
        ({"gradcam": [0.5, 0.6, 0.7], "sobel": [0.1, 0.2, 0.3]}, "clearly better than all others"),
    ],
)
def test_advice_is_plain(scores: dict[str, list[float]], words: str) -> None:
    assert words in summary(made(scores))["srg"]["advice"]


def test_lower_can_be_better_and_errors_are_counted() -> None:
    rows = made({"gradcam": [1.0, 2.0], "random": [3.0, 4.0]}, "complexity")
    rows += [
        Row("9.jpg", "gradcam", "complexity", error="no"),
        Row("1.jpg", "a", "iou", error="no"),
    ]
    found = summary(rows)
    assert found["complexity"]["ranking"] == ["gradcam", "random"]
    assert found["complexity"]["errors"] == {"gradcam": 1}
    assert found["iou"] == {"errors": {"a": 1}}


# -- files ----------------------------------------------------------------------------------------


def test_rows_come_back_from_every_kind_of_file(tmp_path: Path) -> None:
    rows = [*made({"gradcam": [0.5]}), Row("ä,b.jpg", "random", "srg", error="no\nway")]
    for suffix in (".csv", ".json", ".parquet"):
        write_rows(tmp_path / f"rows{suffix}", rows)
    assert json.loads((tmp_path / "rows.json").read_text())[1]["error"] == "no\nway"
    table = pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [Row(**facts) for facts in table] == rows
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert found[1]["picture"] == "ä,b.jpg"
    assert float(found[0]["value"]) == 0.5


def test_the_text_of_a_table_is_what_the_csv_module_writes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = [None, 0.0, 1.0, 0.1 + 0.2, 1e-300, 1e22, *rng.random(50).tolist()]
    names = ["a.jpg", 'ä,"b".jpg', "two\nlines", "", "NA", "nan"]
    rows = [
        Row(names[i % 6], "gradcam", "srg", v, None, v, forward=i, seconds=float(rng.random()))
        for i, v in enumerate(values)
    ]
    write_rows(tmp_path / "rows.csv", rows)
    expected = io.StringIO(newline="")
    writer = csv.DictWriter(expected, list(rows[0].facts()))
    writer.writeheader()
    writer.writerows(row.facts() for row in rows)
    assert (tmp_path / "rows.csv").read_bytes() == expected.getvalue().encode()


def test_lines_cut_off_in_writing_are_ignored_wherever_they_are(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines.jsonl"
    assert JsonLines(path).read() == []
    with JsonLines(path) as one, JsonLines(path) as other:
        one.append({"a": 1})
        other.append({"b": "ä\n"})
        one.append({"c": None})
    with path.open("a") as file:
        file.write('{"d": 4')
    with JsonLines(path) as lines:
        lines.append({"e": 5})
        assert lines.read() == [{"a": 1}, {"b": "ä\n"}, {"c": None}, {"e": 5}]


@pytest.mark.parametrize("text", ["", "garbage", '{"seed": 0}\n{"colour": 1}\n', "\xff\xfe"])
def test_a_journal_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.csv.partial").write_text(text, encoding="latin-1")
    with pytest.raises(TimmscopeError, match="cannot be read"):
        Journal(tmp_path / "rows.csv", {"seed": 0}, resume=True)


def test_a_summary_knows_methods_and_metrics_with_parameters() -> None:
    scores = {"lime(samples=20)": [0.5, 0.6, 0.7], "gradcam@layer3": [0.1, 0.2, 0.3]}
    found = summary(made(scores, "srg(steps=4)"))["srg(steps=4)"]
    assert found["ranking"] == ["lime(samples=20)", "gradcam@layer3"]
    assert found["advice"].startswith("lime(samples=20) scores best by Symmetric relevance gain")


def test_a_journal_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    table, rows = tmp_path / "rows.csv", made({"gradcam": [0.1, 0.2, 0.3]})
    with Journal(table, {"seed": 0}, resume=False) as journal:
        journal.add(rows[0])
        journal.add(rows[1])
    with journal.path.open("a") as file:
        file.write('{"picture": "2.jp')  # the machine went down here
    with pytest.raises(TimmscopeError, match="go on with --resume"):
        Journal(table, {"seed": 0}, resume=False)
    with pytest.raises(TimmscopeError, match="another seed"):
        Journal(table, {"seed": 1}, resume=True)
    with Journal(table, {"seed": 0}, resume=True) as journal:
        assert journal.rows == rows[:2]
        journal.add(rows[2])
        journal.finish()
    assert not journal.path.exists()
    assert len(table.read_text().splitlines()) == 4
    with pytest.raises(TimmscopeError, match=r"'\.xls'"):
        Journal(tmp_path / "rows.xls", {}, resume=False)


# -- the command ----------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any, str]:
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def test_the_command_gives_rows_a_summary_and_resumes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("coffee.jpg", "chelsea.jpg"):
        shutil.copy(SAMPLES / name, tmp_path / name)
    words = [
        "evaluate",
        tmp_path,
        "--methods",
        "gradcam,layercam",
        "--metrics",
        "srg,energy_inside",
    ]
    words += [
        "--set",
        "srg.steps=2",
        "--ground-truth",
        "100,50,350,250",
        "--rows",
        tmp_path / "rows.csv",
    ]
    original = evaluate

    def stopped(*args: Any, **options: Any) -> Iterator[Row]:
        for count, row in enumerate(original(*args, **options)):
            if count == 3:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr("core.cli.evaluate.evaluate", stopped)
    code, answer, err = run(capsys, *words)
    assert (code, answer["interrupted"], len(answer["rows"])) == (130, True, 3)
    assert "go on with --resume" in err
    monkeypatch.setattr("core.cli.evaluate.evaluate", original)
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "go on with --resume" in err
    code, answer, err = run(capsys, *words, "--resume")
    assert code == 0
    assert "picture 2" in err
    assert answer["pictures"] == 2
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * 2 * (2 + len(CONTROLS))
    assert set(answer["summary"]["energy_inside"]["methods"]) == {"gradcam", "layercam", *CONTROLS}
    assert answer["summary"]["srg"]["advice"]


def test_a_metric_without_its_truth_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = run(capsys, "evaluate", SAMPLES, "--metrics", "iou,srg")
    assert code == 2
    assert "iou needs to know where the evidence is; give --ground-truth" in err
