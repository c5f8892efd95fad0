"""What is explained: classes, probabilities, one class rather than another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from core.errors import UnknownNameError
from core.tasks.base import Combination, Target
from core.tasks.classification import (
    Classification,
    ClassProbability,
    ClassScore,
    parse_target,
)
from core.tasks.outputs import Scores

LABELS = [
    "tench",
    "Great White",
    "black-and-tan coonhound",
    "black",
    "tan",
    "crane",
    "crane",
    "t-rex",
]
N = len(LABELS)

TARGETS: dict[str, Callable[[], Target]] = {
    "one class": lambda: ClassScore(2),
    "a class each": lambda: ClassScore((0, 3, 1)),
    "a probability": lambda: ClassProbability(4),
    "a contrast": lambda: ClassScore(1) - ClassScore(5),
    "a mixture": lambda: 0.5 * ClassScore((2, 2, 0)) + ClassProbability(1),
}


@pytest.fixture
def output() -> Scores:
    return Scores(torch.randn((3, N), generator=torch.Generator().manual_seed(0)))


OWNER = torch.arange(3)


# -- algebra ------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", TARGETS)
@pytest.mark.parametrize("b", TARGETS)
def test_the_algebra_means_what_it_says(a: str, b: str, output: Scores) -> None:
    one, other = TARGETS[a](), TARGETS[b]()
    f, g = one(output, OWNER), other(output, OWNER)
    close = torch.testing.assert_close
    close((one + other)(output, OWNER), f + g)
    close((one - other)(output, OWNER), f - g)
    close((2 * one)(output, OWNER), (one * 2)(output, OWNER))
    close((3 * (one - 2 * other))(output, OWNER), 3 * f - 6 * g)
    close((one - one)(output, OWNER), torch.zeros(3))


@pytest.mark.parametrize("name", TARGETS)
def test_each_row_is_scored_for_its_owner(name: str, output: Scores) -> None:
    target = TARGETS[name]()
    owner = torch.tensor([2, 0, 0, 1, 2, 1, 0])
    rows = Scores(torch.randn((7, N), generator=torch.Generator().manual_seed(1)))
    scores = target(rows, owner)
    assert scores.shape == (7,)
    for row, image in enumerate(owner.tolist()):
        alone = target(rows.select(torch.tensor([row] * 3)), OWNER)[image]
        torch.testing.assert_close(scores[row], alone)


@pytest.mark.parametrize("name", TARGETS)
def test_asked_of_the_probabilities(name: str, output: Scores) -> None:
    target = TARGETS[name]()
    logits = {"a probability", "a mixture"}
    if name not in logits:
        expected = target(Scores(output.values.softmax(-1)), OWNER)
        torch.testing.assert_close(target.probability()(output, OWNER), expected)
    again = target.probability().probability()
    torch.testing.assert_close(again(output, OWNER), target.probability()(output, OWNER))
    assert target.probability().unit == "probability"


def test_gradients_pass(output: Scores) -> None:
    rows = output.values.clone().requires_grad_()
    (ClassScore((0, 3, 1)) - ClassScore(5))(Scores(rows), OWNER).sum().backward()
    assert rows.grad is not None
    assert rows.grad[:, 5].tolist() == [-1, -1, -1]
    assert rows.grad.abs().sum() == 6


def test_the_predicted_class_of_each_image(output: Scores) -> None:
    target = Classification().default_target(output)
    torch.testing.assert_close(target(output, OWNER), output.values.amax(-1))
    assert target.index == tuple(output.values.argmax(-1).tolist())


# -- keys ---------------------------------------------------------------------------------------


def test_different_targets_have_different_keys() -> None:
    a, b = ClassScore(1), ClassScore(2)
    different: list[Target] = [
        a,
        b,
        ClassScore(12),
        ClassScore((1, 2)),
        ClassScore((2, 1)),
        ClassProbability(1),
        ClassProbability((1, 2)),
        a - b,
        b - a,
        a + b,
        2 * a,
        2 * a - b,
        2 * (a - b),
        a - b - b,
        (a - b).probability(),
        0.1 * a,
        0.1000001 * a,
        1_000_000 * a,
        1_000_001 * a,
        (1 / 3) * a,
        0.333333 * a,
    ]
    keys = [target.key for target in different]
    assert len(set(keys)) == len(keys)


def test_equal_targets_have_equal_keys() -> None:
    def build() -> Target:
        return 2 * ClassScore(1) - ClassProbability((3, 4))

    assert build() == build()
    assert hash(build()) == hash(build())
    assert build().key == build().key
    assert ClassScore(3).key == ClassScore((3,)).key
    assert (2 * ClassScore(1)).key == (ClassScore(1) * 2.0).key


def test_units() -> None:
    assert ClassScore(0).unit == "logit"
    assert (ClassScore(0) - ClassScore(1)).unit == "logit"
    assert (ClassScore(0) + ClassProbability(1)).unit == "logit and probability"


# -- words --------------------------------------------------------------------------------------


def test_in_words(output: Scores) -> None:
    said = Classification(labels=LABELS).predict(output)
    assert ClassScore(1).describe(said) == "Great White"
    assert ClassScore((1, 0, 4)).describe(said, 2) == "tan"
    assert ClassProbability(0).describe(said) == "p(tench)"
    assert (ClassScore(0) - ClassScore(3)).describe(said) == "tench rather than black"
    assert (2 * ClassScore(0)).describe(said) == "2 x tench"
    assert ClassScore(5).describe(Classification().predict(output)) == "class 5"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (0, "logit:0"),
        ("0", "logit:0"),
        (" 7 ", "logit:7"),
        ("007", "logit:7"),
        ("tench", "logit:0"),
        ("TENCH", "logit:0"),
        (" great white\n", "logit:1"),
        ("crane", "logit:5"),  # the first of that name
        ("black-and-tan coonhound", "logit:2"),
        ("black-tan", "(1*logit:3+-1*logit:4)"),
        ("black - tan", "(1*logit:3+-1*logit:4)"),
        ("3-4", "(1*logit:3+-1*logit:4)"),
        ("tench-4", "(1*logit:0+-1*logit:4)"),
        ("t-rex-tench", "(1*logit:7+-1*logit:0)"),
        ("tench-t-rex", "(1*logit:0+-1*logit:7)"),
        ("black-and-tan coonhound-black", "(1*logit:2+-1*logit:3)"),
        ("black-black-and-tan coonhound", "(1*logit:3+-1*logit:2)"),
        ("t-rex-black-and-tan coonhound", "(1*logit:7+-1*logit:2)"),
        ("tan-tan", "(1*logit:4+-1*logit:4)"),
        ("999999999", "logit:999999999"),
    ],
)
def test_what_a_person_types(text: str | int, key: str) -> None:
    assert parse_target(text, LABELS).key == key


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "-", "--", "-1", "1-", "-tench", "tench-", "1-2-3", "tench--1", "tenche"),
        *("1.0", "1e3", "+1", "0x1", "1_0", "٣", "²", "½", "1" * 13, str(10**12)),
        *("nan", "None", "a" * 5000),
    ],
)
def test_what_names_no_class(text: str) -> None:
    with pytest.raises(UnknownNameError) as refusal:
        parse_target(text, LABELS, "zoo")
    sentence = str(refusal.value)
    assert (repr(text[:80]) if text != "-1" else "no class -1") in sentence
    assert "zoo" in sentence
    assert len(sentence) < 400


def test_a_number_is_an_index_and_text_a_label_first() -> None:
    digits = ["1", "2", "0"]
    assert parse_target(1, digits) == ClassScore(1)
    assert parse_target("1", digits) == ClassScore(0)
    assert parse_target("0-1", digits) == ClassScore(2) - ClassScore(0)


def test_without_labels_a_number_is_needed() -> None:
    assert parse_target("3-4", None).key == "(1*logit:3+-1*logit:4)"
    with pytest.raises(UnknownNameError, match="no class 'cat': zoo does not name its classes"):
        parse_target("cat", None, "zoo")


# -- what does not exist ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (ClassScore(8), ["class 8", "0 to 7"]),
        (ClassScore(-1), ["class -1", "0 to 7"]),
        (ClassScore(10**12), ["class 1000000000000", "0 to 7"]),
        (ClassScore((1, 2, 9)), ["class 9", "0 to 7"]),
        (ClassScore((1, 2)), ["2 classes", "3 images"]),
        (ClassScore(1) - ClassScore(8), ["class 8"]),
        (2 * (ClassScore(1) + ClassProbability(99)), ["class 99"]),
        (ClassScore(1) - ClassScore(1), ["always zero", "two different classes"]),
    ],
)
def test_a_target_that_does_not_exist_is_named_with_the_range(
    target: Target, words: list[str]
) -> None:
    with pytest.raises(UnknownNameError) as refusal:
        target.check(8, 3, "zoo")
    assert all(word in str(refusal.value) for word in words)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_that_exists_passes(name: str) -> None:
    target = TARGETS[name]()
    target.check(N, 3, "zoo")
    assert isinstance(target, ClassScore | Combination)
