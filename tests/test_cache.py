"""A cache bounded in bytes, each of whose answers is computed once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
import torch

from core.errors import CancelledError
from core.runtime.cache import OVERHEAD, Cache, CacheScope, nbytes
from core.types import Attribution

KILO = 1024


def blob(kilobytes: int) -> torch.Tensor:
    return torch.zeros(kilobytes * KILO, dtype=torch.uint8)


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run ``work(index)`` in `count` threads at once and wait for all."""
    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a thread waits for ever"


def forbidden() -> Any:
    raise AssertionError("computed although it was there")


# -- bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kilobytes"),
    [
        (blob(3), 3),
        (torch.zeros(KILO), 4),
        (torch.zeros(KILO, dtype=torch.float64), 8),
        ([blob(1), blob(2)], 3),
        ((blob(1), {"a": blob(2), "b": [blob(4)]}), 7),
        (MappingProxyType({"a": blob(2)}), 2),
        (Attribution(blob(2), blob(1), "m", {}, extras={"e": blob(4)}), 7),
        (bytes(2 * KILO), 2),
        (None, 0),
        (7, 0),
    ],
)
def test_bytes_of_nested_things(value: object, kilobytes: int) -> None:
    assert kilobytes * KILO <= nbytes(value) <= kilobytes * KILO + 18 * OVERHEAD


def test_a_view_is_charged_for_all_it_keeps_alive() -> None:
    assert nbytes(blob(64)[:1]) >= 64 * KILO


def test_the_least_recently_used_goes_first() -> None:
    cache = Cache(3 * (10 * KILO + OVERHEAD))
    for key in "abc":
        cache.get_or_compute(key, lambda: blob(10))
    cache.get_or_compute("a", forbidden)
    cache.get_or_compute("d", lambda: blob(10))
    assert [key for key in "abcd" if key in cache] == ["a", "c", "d"]
    cache.get_or_compute("e", lambda: blob(20))
    assert [key for key in "abcde" if key in cache] == ["d", "e"]


def test_bytes_in_use_never_exceed_the_bound() -> None:
    bound = 100 * KILO
    cache, draw = Cache(bound), random.Random(0)
    for key in range(200):
        size = draw.randrange(1, 60)
        cache.get_or_compute(key, lambda size=size: blob(size))
        assert 0 < cache.bytes <= bound
    assert cache.bytes > bound / 3
    cache.clear()
    assert (cache.bytes, 199 in cache) == (0, False)


def test_what_is_larger_than_the_bound_is_handed_out_and_displaces_nothing() -> None:
    cache = Cache(10 * KILO)
    cache.get_or_compute("small", lambda: blob(5))
    large = blob(11)
    assert cache.get_or_compute("large", lambda: large) is large
    assert "large" not in cache
    assert "small" in cache


# -- single flight ------------------------------------------------------------------------------


def test_sixteen_who_ask_at_once_are_answered_by_one_computation() -> None:
    cache, calls, answers = Cache(), [], []
    meet, asked = threading.Barrier(16, timeout=30), threading.Event()

    def compute() -> torch.Tensor:
        calls.append(threading.get_ident())
        asked.wait(0.2)
        return blob(1)

    def ask(_: int) -> None:
        meet.wait()
        answers.append(cache.get_or_compute("key", compute))

    in_threads(16, ask)
    assert len(calls) == 1
    assert len({id(answer) for answer in answers}) == 1
    assert cache.hits == 15


def test_even_an_answer_too_large_to_keep_is_shared_by_those_who_wait() -> None:
    cache, began, release = Cache(KILO), threading.Event(), threading.Event()
    answers: dict[int, object] = {}

    def compute() -> torch.Tensor:
        began.set()
        assert release.wait(30)
        return blob(2)

    def ask(index: int) -> None:
        if index:
            assert began.wait(30)
            threading.Timer(0.1, release.set).start()
        answers[index] = cache.get_or_compute("key", compute if not index else forbidden)

    in_threads(2, ask)
    assert answers[0] is answers[1]


@pytest.mark.parametrize("error", [CancelledError("enough"), KeyboardInterrupt(), ValueError("no")])
def test_a_failure_is_not_kept(error: BaseException) -> None:
    cache = Cache()

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        cache.get_or_compute("key", fail)
    assert "key" not in cache
    assert cache.get_or_compute("key", lambda: 5) == 5


def test_who_waited_for_a_failure_computes_for_himself() -> None:
    cache, began, release = Cache(), threading.Event(), threading.Event()
    outcomes: dict[int, object] = {}

    def cancelled() -> None:
        began.set()
        assert release.wait(30)
        raise CancelledError("enough")

    def ask(index: int) -> None:
        if index:
            assert began.wait(30)
            threading.Timer(0.1, release.set).start()
        try:
            outcomes[index] = cache.get_or_compute("key", (lambda: 7) if index else cancelled)
        except CancelledError as error:
            outcomes[index] = str(error)

    in_threads(6, ask)
    assert outcomes == {0: "enough", **dict.fromkeys(range(1, 6), 7)}


def test_an_answer_may_be_computed_from_other_answers() -> None:
    cache = Cache()
    outer = cache.get_or_compute("a", lambda: 1 + cache.get_or_compute("b", lambda: 2))
    assert (outer, cache.get_or_compute("b", forbidden)) == (3, 2)


def test_many_threads_many_keys_little_room() -> None:
    bound = 20 * KILO
    cache, wrong = Cache(bound), []

    def ask(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(150):
            key = draw.randrange(12)
            if draw.random() < 0.05:
                cache.clear()
            value = cache.get_or_compute(key, lambda key=key: (key, blob(1 + key % 4)))
            if value[0] != key or cache.bytes > bound:
                wrong.append((key, value[0], cache.bytes))

    in_threads(8, ask)
    assert wrong == []
    kept = sum(nbytes(cache.get_or_compute(key, forbidden)) for key in range(12) if key in cache)
    assert kept == cache.bytes


# -- cache scopes -------------------------------------------------------------------------------


def test_scopes_of_other_images_or_models_do_not_collide() -> None:
    cache = Cache()
    prefixes: list[tuple[Any, ...]] = [
        ("a", "b"),
        ("a", "bc"),
        ("ab", "c"),
        ("a",),
        (),
        (("a", "b"),),
    ]
    scopes = [CacheScope(cache, prefix) for prefix in prefixes]
    for index, cache_scope in enumerate(scopes):
        for key in ("k", ("b", "k")):
            assert key not in cache_scope
            cache_scope.put(key, (index, key))
    for index, cache_scope in enumerate(scopes):
        for key in ("k", ("b", "k")):
            assert cache_scope.get_or_compute(key, forbidden) == (index, key)


def test_named_images_on_the_same_model_have_a_scope_of_their_own() -> None:
    cache = Cache()
    for image in ("x", "y"):
        samples = CacheScope(cache, ("m", image)).for_images("samples")
        assert samples.get_or_compute("k", lambda: "once") == "once"
    assert cache.hits == 1
    other = CacheScope(cache, ("m2", "x")).for_images("samples")
    assert other.get_or_compute("k", lambda: "new") == "new"
    assert "k" not in CacheScope(cache, ("m", "x"))


def test_scopes_of_the_same_images_and_model_are_one() -> None:
    cache = Cache()
    CacheScope(cache, ("m", "x")).put("outputs", 1)
    assert CacheScope(cache, ("m", "x")).get_or_compute("outputs", forbidden) == 1


def test_what_is_kept_already_stays() -> None:
    cache_scope = CacheScope()
    cache_scope.put("k", 1)
    cache_scope.put("k", 2)
    assert cache_scope.get_or_compute("k", forbidden) == 1


def test_a_scope_without_a_cache_has_its_own() -> None:
    CacheScope().put("k", 1)
    assert "k" not in CacheScope()


def test_two_computations_that_put_each_others_answers_do_not_wait_for_ever() -> None:
    cache = Cache()
    both = threading.Barrier(2)

    def answer(own: str, other: str) -> str:
        def compute() -> str:
            both.wait(10)
            cache.put(other, f"put by {own}")
            return own

        return cache.get_or_compute(own, compute)

    threads = [threading.Thread(target=answer, args=pair, daemon=True) for pair in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert [cache.get_or_compute(key, lambda: "new") for key in "ab"] == ["a", "b"]


@pytest.mark.parametrize("scoped", [False, True])
def test_who_waits_can_leave_and_the_computation_goes_on(scoped: bool) -> None:
    cache, began, release = Cache(), threading.Event(), threading.Event()
    outcomes: dict[int, object] = {}

    def compute() -> int:
        began.set()
        assert release.wait(30)
        return 7

    def leave() -> None:
        raise CancelledError("enough")

    def wait() -> object:
        if scoped:
            return CacheScope(cache, ("s",), waiting=leave).get_or_compute("key", forbidden)
        return cache.get_or_compute((("s",), "key"), forbidden, leave)

    def ask(index: int) -> None:
        if not index:
            outcomes[0] = cache.get_or_compute((("s",), "key"), compute)
            return
        assert began.wait(30)
        try:
            outcomes[index] = wait()
        except CancelledError as error:
            outcomes[index] = str(error)
        release.set()

    in_threads(2, ask)
    assert outcomes == {0: 7, 1: "enough"}
    assert cache.get_or_compute((("s",), "key"), forbidden) == 7


def test_who_goes_on_waiting_is_asked_until_the_answer_is_there() -> None:
    cache, began, release = Cache(), threading.Event(), threading.Event()
    asked: list[int] = []

    def compute() -> int:
        began.set()
        assert release.wait(30)
        return 7

    def waiting() -> None:
        asked.append(1)
        if len(asked) == 3:
            release.set()

    def ask(index: int) -> None:
        if not index:
            cache.get_or_compute("key", compute)
        else:
            assert began.wait(30)
            assert cache.get_or_compute("key", forbidden, waiting) == 7

    in_threads(2, ask)
    assert len(asked) >= 3
