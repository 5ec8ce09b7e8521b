"""Judge a torch model by held-out tokens, as Castline's comparison does, and say what it took."""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

KIB = 1024
MB = 1e6

TaskT = TypeVar("TaskT")
Quantize: TypeAlias = Callable[[PreTrainedModel, torch.Tensor, TaskT], PreTrainedModel]
"""Quantizes a float32 model, calibrated on tokens [samples, length], as a task says."""


def measure(kind: type[TaskT], quantize: Quantize[TaskT], packages: Sequence[str]) -> None:
    """Do the task of its kind on the command line; print the figures as one line of JSON.

    `cpu_s` (user and system) and `peak_mb` are what the process took until the model is quantized;
    `evaluation_s` is the wall time of what came after that.
    """
    options = _options()
    torch.set_num_threads(options.threads)
    calibration, windows = (
        torch.from_numpy(np.load(file)) for file in (options.calibration, options.evaluation)
    )
    task = kind(**json.loads(options.task))
    model = quantize(_float_model(options.model), calibration, task)
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = {"cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss * KIB / MB}
    quantized = time.perf_counter()
    figures = language_figures(_float_model(options.model), model, windows)
    spent["evaluation_s"] = time.perf_counter() - quantized
    tool = {package: version(package) for package in (*packages, "torch", "transformers")}
    print(json.dumps({**figures, **spent, "versions": tool}))


def language_figures(
    original: PreTrainedModel, result: PreTrainedModel, windows: torch.Tensor
) -> dict[str, float]:
    """Return perplexity, KL(original || result) in nats a token, and agreement on the likeliest.

    Each of the windows [count, length] is read from an empty cache; all its tokens but the first
    are predicted.
    """
    sums = np.zeros(4)
    for window in windows:
        p, q = (_log_probabilities(model, window) for model in (original, result))
        successors = window[1:, None]
        sums += [
            -p.gather(1, successors).sum().item(),
            -q.gather(1, successors).sum().item(),
            (p.exp() * (p - q)).sum().item(),
            (p.argmax(dim=1) == q.argmax(dim=1)).sum().item(),
        ]
    nll_original, nll, divergence, agreement = (sums / windows[:, 1:].numel()).tolist()
    return {
        "perplexity_original": float(np.exp(nll_original)),
        "perplexity": float(np.exp(nll)),
        "kl_divergence": divergence,
        "top1_agreement": agreement,
    }


def _log_probabilities(model: PreTrainedModel, window: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits = model(input_ids=window[None], use_cache=False).logits[0, :-1]
        return logits.double().log_softmax(dim=-1)


def _float_model(folder: Path) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder)
    # transformers 4, which some peers need, does not look where version 5 keeps it.
    config.rope_theta = config.rope_parameters["rope_theta"]
    return AutoModelForCausalLM.from_pretrained(folder, config=config).float().eval()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path, help="a Hugging Face folder")
    parser.add_argument("calibration", type=Path, help=".npy of tokens [samples, length]")
    parser.add_argument("evaluation", type=Path, help=".npy of tokens [windows, length]")
    parser.add_argument("task", help="JSON: what to do, as the cases of accuracy.py say")
    parser.add_argument("--threads", type=int, required=True)
    return parser.parse_args()
