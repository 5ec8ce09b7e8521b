"""Take tasks from lm-evaluation-harness, where it is installed, and answer to it as a model."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from castline.compiler.check.tasks.likelihood import likelihoods
from castline.compiler.check.tasks.pairs import PairEncoder
from castline.compiler.check.tasks.readers import Reader
from castline.compiler.check.tasks.task import Document, Request, Task
from castline.errors import OutputError, TargetError

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM

_PACKAGE = "lm_eval"
_MULTIPLE_CHOICE = "multiple_choice"
_ABSENT = "lm-evaluation-harness is not installed. Install it: pip install 'lm_eval>=0.4.13'."


def harness_is_installed() -> bool:
    """Return whether tasks can be taken from lm-evaluation-harness."""
    return importlib.util.find_spec(_PACKAGE) is not None


def harness_task(name: str, limit: int | None = None) -> Task:
    """Return a task of multiple choices as lm-evaluation-harness asks it, without examples.

    Its data come from where the harness has them: the Hub, or the cache of `datasets`. Raises
    OutputError for a task that it does not have or that is not of this kind, TargetError without
    lm_eval.
    """
    _require_harness()
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - optional

    try:
        task: Any = TaskManager().load(name)["tasks"].get(name)
    except (KeyError, ValueError, OSError) as error:  # unknown; not to be read; not to be fetched
        raise OutputError(f"lm_eval cannot give the task {name}: {error}") from error
    if getattr(task, "OUTPUT_TYPE", None) != _MULTIPLE_CHOICE:
        raise OutputError(
            f"lm_eval: {name} is a group or no task of multiple choices. Name such ones singly."
        )
    task.build_all_requests(limit=limit)
    return Task(name, tuple(islice(_documents(task), limit)))


def harness_model(reader: Reader, encoder: PairEncoder) -> LM:
    """Return a model for `lm_eval.simple_evaluate` that answers by `reader`.

    It gives log likelihoods of continuations; tasks that generate text are refused, by
    TargetError. Raises TargetError without lm_eval.
    """
    _require_harness()
    from lm_eval.api.model import LM as BASE  # noqa: PLC0415 - optional

    class CastlineModel(BASE):  # type: ignore[misc]  # lm_eval has no types
        def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
            pairs = [encoder.encode(Request(*request.args)) for request in requests]
            return [(found.log, found.greedy) for found in likelihoods(reader, pairs)]

        def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
            raise TargetError(f"{len(requests)} texts: only tasks of multiple choices are answered")

        def generate_until(self, requests: Sequence[Instance]) -> list[str]:
            raise TargetError(f"{len(requests)} texts: only tasks of multiple choices are answered")

    return CastlineModel()


def _documents(task: Any) -> Iterator[Document]:
    """Yield the documents behind requests; what a task asks beside its choices is left out."""
    for _, group in groupby(task.instances, key=lambda instance: instance.doc_id):
        instances = list(group)
        document = instances[0].doc
        several_contexts = bool(task.multiple_input)
        label = task.doc_to_text(document) if several_contexts else task.doc_to_target(document)
        choices = len(task.doc_to_choice(document))
        requests = tuple(Request(*instance.args) for instance in instances[:choices])
        yield Document(requests, _label(task, label, document))


def _label(task: Any, label: object, document: Any) -> int:
    if isinstance(label, str):
        label = task.doc_to_choice(document).index(label)
    if not isinstance(label, int):
        raise OutputError(f"lm_eval: a document of {task.config.task} has several right answers.")
    return label


def _require_harness() -> None:
    if not harness_is_installed():
        raise TargetError(_ABSENT)
