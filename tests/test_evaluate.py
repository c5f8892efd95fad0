"""Many pictures: rows, intervals, significance, and going on where work stopped."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import scipy.stats

from core import METHODS, METRICS, Explainer, cli
from core.errors import TimmscopeError
from core.evaluation.journal import Journal, JsonLines
from core.evaluation.pictures import annotation_finder, evaluate, picture_files
from core.evaluation.rows import Row, write_rows
from core.evaluation.statistics import holm, interval, sign_flip, summary
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
    with pytest.raises(KeyboardInterrupt):
        run(capsys, *words)
    capsys.readouterr()
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
