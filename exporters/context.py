"""Say how many tokens a model reads at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_FIELDS = ("max_position_embeddings", "seq_length", "max_seq_len")  # most, BLOOM, MPT
# ALiBi needs no table of positions, and BLOOM's configuration need not say a length: the length
# its authors trained with bounds buffers and samples as well as any.
_UNSTATED = 2048
# Their first token has the position after the padding token's number, in a table that starts at 0.
_POSITIONS_AFTER_PADDING = frozenset(
    {
        "camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta",
        "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip


def context_length(config: PretrainedConfig) -> int:
    """Return the longest sequence that a configuration's model takes, in tokens.

    That is the size of its table of positions less those that no token has, or what it was trained
    with where it has no table; 2048 where the configuration does not say.
    """
    stated = next((value for name in _FIELDS if (value := getattr(config, name, None))), _UNSTATED)
    if config.model_type in _POSITIONS_AFTER_PADDING and config.pad_token_id is not None:
        return int(stated) - int(config.pad_token_id) - 1
    return int(stated)
