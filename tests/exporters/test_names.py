from __future__ import annotations

from castline.exporters import names


def test_inputs_and_outputs_are_in_the_order_of_the_ecosystem() -> None:
    assert names.input_names(2) == (
        "input_ids",
        "attention_mask",
        "position_ids",
        "past_key_values.0.key",
        "past_key_values.0.value",
        "past_key_values.1.key",
        "past_key_values.1.value",
    )
    assert names.output_names(1) == ("logits", "present.0.key", "present.0.value")


def test_tells_inputs_from_weights() -> None:
    assert all(names.is_input(name) for name in names.input_names(1))
    assert not names.is_input("model.layers.0.self_attn.q_proj.weight")


def test_patterns_take_the_layer_number_in_the_way_of_c() -> None:
    assert names.PAST_PATTERN.format(slot="key") % 3 == names.past_name(3, "key")
    assert names.PRESENT_PATTERN.format(slot="value") % 3 == names.present_name(3, "value")
