"""Judge a torch model by held-out tokens, as Castline's comparison does, and say what it took."""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

KIB = 1024
MB = 1e6
FLOAT = "float"  # the scheme that quantizes nothing


@dataclass(frozen=True)
class Task:
    """How to quantize the linears of the layers, in the words of accuracy.py."""

    weights: str
    """float, per-channel or per-tensor."""
    activations: str
    """token-dynamic, tensor-dynamic or tensor-static."""
    bits: int
    smooth: bool
    alpha: float | None
    """SmoothQuant's migration strength; None: the tool's own default."""


Quantize: TypeAlias = Callable[[PreTrainedModel, torch.Tensor, Task], PreTrainedModel]
"""Quantizes a float32 model, calibrated on tokens [samples, length]."""


def measure(quantize: Quantize, packages: Sequence[str]) -> None:
    """Do the task that the command line says; print the figures as one line of JSON.

    `peak_mb` is the memory of the process until the model is quantized; `evaluation_s` is what
    came after that.
    """
    options = _options()
    torch.set_num_threads(options.threads)
    calibration, windows = (
        torch.from_numpy(np.load(file)) for file in (options.calibration, options.evaluation)
    )
    task = Task(options.weights, options.activations, options.bits, options.smooth, options.alpha)
    model = _float_model(options.model)
    if task.weights != FLOAT:
        model = quantize(model, calibration, task)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / MB
    quantized = time.perf_counter()
    figures = language_figures(_float_model(options.model), model, windows)
    spent = {"peak_mb": peak_mb, "evaluation_s": time.perf_counter() - quantized}
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
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path, help="a Hugging Face folder")
    parser.add_argument("calibration", type=Path, help=".npy of tokens [samples, length]")
    parser.add_argument("evaluation", type=Path, help=".npy of tokens [windows, length]")
    parser.add_argument("--weights", choices=(FLOAT, "per-channel", "per-tensor"), required=True)
    parser.add_argument("--activations", default="token-dynamic")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--smooth", action="store_true")
    parser.add_argument("--alpha", type=float)
    parser.add_argument("--threads", type=int, required=True)
    return parser.parse_args()
