"""Judge a compiled folder on ONNX Runtime by held-out tokens, beside its original in torch."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from castline.compiler.check.language import compare_language
from castline.compiler.check.original import OriginalModel
from castline.compiler.targets.session import DecoderSession
from castline.exporters.checkpoint import open_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the original")
    parser.add_argument("evaluation", type=Path, help=".npy of tokens [windows, length]")
    parser.add_argument("folder", type=Path, help="what castline compile wrote")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = compare_language(
        OriginalModel.load(open_checkpoint(options.model)),
        DecoderSession.open(options.folder, threads=options.threads),
        np.load(options.evaluation),
    )
    print(json.dumps(asdict(figures)))


if __name__ == "__main__":
    main()
