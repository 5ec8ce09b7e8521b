"""Tasks come from lm-evaluation-harness, and it asks our models, where it is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from castline.compiler.check.original import OriginalModel
from castline.compiler.check.tasks import harness
from castline.compiler.check.tasks.harness import harness_model, harness_task
from castline.compiler.check.tasks.pairs import PairEncoder
from castline.compiler.check.tasks.readers import OriginalReader
from castline.compiler.check.tasks.reading import read_task
from castline.compiler.check.tasks.task import Document, Request
from castline.errors import OutputError, TargetError

# As much of the harness as is asked of it: tasks by name, and the class of models.
PACKAGE = {
    "__init__.py": "",
    "api/__init__.py": "",
    "api/model.py": "class LM:\n    rank = 0\n",
    "tasks.py": """
from types import SimpleNamespace as Made

class Task:
    OUTPUT_TYPE = "multiple_choice"

    def __init__(self, name):
        self.config = Made(task=name)
        self.multiple_input = name == "contexts"

    def doc_to_choice(self, doc):
        return ["he", "she"] if self.multiple_input else ["no", "yes"]

    def doc_to_text(self, doc):
        return doc["label"] if self.multiple_input else doc["text"]

    def doc_to_target(self, doc):
        return doc["end"] if self.multiple_input else doc["label"]

    def build_all_requests(self, limit=None):
        self.instances = []
        labels = {"choices": [0, "yes", 1], "contexts": [1, 0, 0], "several": [[0, 1]]}
        for place, label in enumerate(labels[self.config.task][:limit]):
            doc = {"text": f"Q{place}", "label": label, "end": "left."}
            for choice in self.doc_to_choice(doc):
                both = (choice, " left.") if self.multiple_input else (f"Q{place}", f" {choice}")
                self.instances.append(Made(doc=doc, doc_id=place, args=both))
            self.instances.append(Made(doc=doc, doc_id=place, args=("", " unconditioned")))

class TaskManager:
    def load(self, name):
        if name == "group":
            return {"tasks": {"other": {}}, "groups": {"group": {}}}
        if name == "text":
            return {"tasks": {name: Made(OUTPUT_TYPE="generate_until")}}
        if name not in ("choices", "contexts", "several"):
            raise ValueError(f"{name} is not registered")
        return {"tasks": {name: Task(name)}}
""",
}


@pytest.fixture
def small_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {name: module for name, module in sys.modules.items() if name.startswith("lm_eval")}
    for name in before:
        monkeypatch.delitem(sys.modules, name)
    for name, content in PACKAGE.items():
        file = tmp_path / "lm_eval" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("lm_eval")]:
        del sys.modules[name]  # the real one is put back as the patch ends


class Sure:
    """A model of words of which the last token of what is read comes again, surely."""

    def continued(
        self, context: np.ndarray, continuations: Sequence[np.ndarray]
    ) -> Iterator[np.ndarray]:
        for tokens in continuations:
            before = np.concatenate([context[-1:], tokens[:-1]])
            yield np.where(np.arange(160) == before[:, None], 0, -np.inf).astype(np.float32)


@pytest.mark.usefixtures("small_harness")
def test_choices_are_taken_without_what_is_asked_beside_them() -> None:
    task = harness_task("choices", 2)
    assert task.documents == (
        Document((Request("Q0", " no"), Request("Q0", " yes")), 0),
        Document((Request("Q1", " no"), Request("Q1", " yes")), 1),
    )


@pytest.mark.usefixtures("small_harness")
def test_a_task_may_ask_one_continuation_of_several_contexts() -> None:
    documents = harness_task("contexts").documents
    assert documents[0] == Document((Request("he", " left."), Request("she", " left.")), 1)
    assert [document.label for document in documents] == [1, 0, 0]


@pytest.mark.usefixtures("small_harness")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", "cannot give the task none: none is not registered"),
        ("group", "group is a group or no task of multiple choices"),
        ("text", "text is a group or no task of multiple choices"),
        ("several", "a document of several has several right answers"),
    ],
)
def test_what_is_no_task_of_single_choices_is_refused(name: str, said: str) -> None:
    with pytest.raises(OutputError, match=said):
        harness_task(name)


@pytest.mark.usefixtures("small_harness")
def test_the_harness_gets_likelihoods_and_nothing_else(tiny: Callable[[str], Any]) -> None:
    class Instance:
        def __init__(self, *args: str) -> None:
            self.args = args

    encoder = PairEncoder(tiny("llama").checkpoint.tokenizer(), 512)
    model = harness_model(Sure(), encoder)
    asked = [Instance("w1 w2", " w2 w2"), Instance("w1 w2", " w3")]
    assert model.loglikelihood(asked) == [(0.0, True), (-np.inf, False)]
    for refuse in (model.loglikelihood_rolling, model.generate_until):
        with pytest.raises(TargetError, match="2 texts: only tasks of multiple choices"):
            refuse(asked)


def test_without_the_harness_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "harness_is_installed", lambda: False)
    with pytest.raises(TargetError, match=r"pip install 'lm_eval>=0.4.13'"):
        harness_task("piqa")


TASK = """
task: castline_words
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of a package of others
def test_the_real_harness_agrees_with_its_own_model_of_transformers(
    tiny: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval import tasks as of_harness
    from lm_eval.models.huggingface import HFLM

    path = tmp_path / "castline_words.jsonl"
    random = np.random.default_rng(0)
    draws = [[f"w{i}" for i in random.integers(0, 150, 9)] for _ in range(12)]
    lines = [
        {"context": " ".join(d[:4]), "choices": [d[4], " ".join(d[5:7]), " ".join(d[7:])]}
        for d in draws
    ]
    path.write_text("\n".join(json.dumps({**one, "label": i % 3}) for i, one in enumerate(lines)))
    (tmp_path / "words.yaml").write_text(TASK.replace("FILE", str(path)))
    manager = of_harness.TaskManager(include_path=str(tmp_path))
    monkeypatch.setattr(of_harness, "TaskManager", lambda: manager)
    assert harness_task("castline_words") == read_task(path, "castline_words")

    checkpoint = tiny("llama").checkpoint
    original = OriginalModel.load(checkpoint)
    ours = harness_model(OriginalReader(original), PairEncoder(checkpoint.tokenizer(), 512))
    theirs = HFLM(pretrained=original.model, tokenizer=checkpoint.tokenizer(), device="cpu")
    samples = []
    for model in (ours, theirs):
        found = lm_eval.simple_evaluate(
            model=model, tasks=["castline_words"], task_manager=manager, bootstrap_iters=0
        )
        samples.append(found["samples"]["castline_words"])
    for one, other in zip(*samples, strict=True):
        for figure in ("acc", "acc_norm"):
            assert one[figure] == other[figure]
        logs = [[float(response[0][0]) for response in s["resps"]] for s in (one, other)]
        assert logs[0] == pytest.approx(logs[1], abs=1e-3)
