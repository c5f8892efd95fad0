"""What the first visitor of the page would otherwise wait for."""

from __future__ import annotations

import logging

from core.errors import TimmscopeError
from dashboard.actions.explain import ExplainRequest, explain
from dashboard.actions.film import film
from dashboard.actions.model import OffersRequest, describe_model
from dashboard.actions.question import NO_CLASS, Question
from dashboard.state import Service

logger = logging.getLogger(__name__)


def warm_up(service: Service, model: str, picture: str, method: str) -> None:
    """Load a model, find out what it offers, and explain a picture; the answers are kept.

    Args:
        service: models and running tasks.
        model: the model that the page opens with.
        picture: path of the picture that the page opens with.
        method: the method that the page opens with.
    """
    try:
        question = Question(picture, model, "pretrained", None, NO_CLASS, "logit")
        request = ExplainRequest(question, method, None, {})
        explain(service, request)
        film(service, request)
        describe_model(service, OffersRequest(model, "pretrained"))
    except TimmscopeError as error:
        logger.warning("the page opens without an explanation: %s", error)
