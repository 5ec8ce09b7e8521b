"""Quantize a float folder for onnxruntime-genai by ONNX Runtime's `quantize_dynamic`: FLOAT OUT.

It is what Optimum runs for its dynamic INT8: weights with one scale each, and activations with one
scale for all tokens, found as they come.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic

MODEL = "model.onnx"


def main() -> None:
    given, out = map(Path, sys.argv[1:])
    shutil.copytree(given, out, ignore=shutil.ignore_patterns(f"{MODEL}*"))
    quantize_dynamic(
        given / MODEL,
        out / MODEL,
        op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )


if __name__ == "__main__":
    main()
