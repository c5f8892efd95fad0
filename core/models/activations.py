"""Which activation a model's scores have: as it says, as it behaves, or as the caller says."""

from __future__ import annotations

from torch import nn

from core.errors import ModelError
from core.models.hugging_face import configuration_of
from core.models.layers import Probe
from core.tasks.activation import IDENTITY, PROBABILITIES, SIGMOID, SOFTMAX, Activation
from core.tasks.reading import has_no_classes

_ENDINGS = {"softmax": SOFTMAX, "sigmoid": SIGMOID}
_PROBLEMS = {
    "single_label_classification": SOFTMAX,
    "multi_label_classification": SIGMOID,
    "regression": IDENTITY,
}
"""By Hugging Face's `problem_type`."""


def settle(
    given: Activation | None, model: nn.Module, probe: Probe, name: str
) -> tuple[Activation, bool]:
    """The activation of a model's scores, and whether they are read before the model's own ending.

    What the caller gives goes first. Else it is, in this order: the softmax or sigmoid that the
    model ends in; probabilities, if what comes out is not negative and adds up to 1; Hugging Face's
    `problem_type`; a sigmoid for one output; a softmax.

    Raises:
        ModelError: the model ends in another function than the activation given, or the numbers of
            a map are said to be no scores of classes.
    """
    ending = _ENDINGS.get(probe.ending or "")
    if probe.dense:
        if given is not None and not given.bounded:
            raise ModelError(
                f"{name} gives a map of {probe.outputs} output(s), and with activation='identity' "
                "these are no classes; make one row of numbers per image of them with "
                "output=FUNCTION, or leave activation out"
            )
    elif has_no_classes(model):
        return given or IDENTITY, False
    if given is not None:
        if given in (SOFTMAX, SIGMOID) and ending not in (None, given):
            raise ModelError(
                f"{name} ends in a {probe.ending}, so a {given.key} of its outputs would be taken "
                "of probabilities; leave activation out"
            )
        return given, given == ending
    if ending is not None:
        return ending, True
    if probe.sums_to_one:
        return PROBABILITIES, False
    declared = None if probe.dense else _declared(model)
    return declared or (SIGMOID if probe.outputs == 1 else SOFTMAX), False


def _declared(model: nn.Module) -> Activation | None:
    """The activation that a Hugging Face configuration implies; None if there is none.

    Where it names no problem and one output, the library trains a regression.
    """
    config = configuration_of(model)
    if config is None:
        return None
    problem = config.problem_type
    if problem is None and len(config.id2label) == 1:
        problem = "regression"
    return _PROBLEMS.get(str(problem))
