"""Describe packed linears to transformers and vLLM: the quantization_config of config.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from castline.compiler.huggingface.packed_linear import PackedLinear
from castline.compiler.quant.scheme import GroupSize

_STRATEGIES = {"per-channel": "channel", "per-tensor": "tensor"}


def quantization_config(
    linears: Iterable[PackedLinear], ignore: Sequence[str], *, dequantize: bool = False
) -> dict[str, object]:
    """Return the quantization_config of a checkpoint with these linears.

    There is a group for each way of storing that occurs. Its modules are named one by one: a class
    would also mean those that have no codes. `ignore` lists the other linears, which vLLM asks for.
    `dequantize` tells transformers, and it alone, to turn codes into weights as it loads them.
    """
    modules: dict[tuple[int, GroupSize, bool], list[str]] = {}
    for linear in linears:
        way = linear.bits, linear.group, linear.symmetric
        modules.setdefault(way, []).append(linear.module)
    groups = {
        f"group_{index}": {
            "targets": targets,
            "weights": _weights(*way),
            "input_activations": None,
            "output_activations": None,
        }
        for index, (way, targets) in enumerate(modules.items())
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": list(ignore),
        "kv_cache_scheme": None,
    } | ({"dequantize": True} if dequantize else {})


def _weights(bits: int, group: GroupSize, symmetric: bool) -> dict[str, object]:
    return {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "group" if isinstance(group, int) else _STRATEGIES[group],
        "group_size": group if isinstance(group, int) else None,
        "dynamic": False,
        "actorder": None,
    }
