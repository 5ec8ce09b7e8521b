from __future__ import annotations

from castline.exporters import names


def test_caches_are_named_as_the_ecosystem_names_them() -> None:
    assert names.past_name(0, "key") == "past_key_values.0.key"
    assert names.present_name(12, "value") == "present.12.value"


def test_tells_inputs_from_weights() -> None:
    assert all(names.is_input(name) for name in names.TOKEN_INPUTS)
    assert names.is_input(names.past_name(3, "value"))
    assert not names.is_input("model.layers.0.self_attn.q_proj.weight")


def test_patterns_take_the_layer_number_in_the_way_of_c() -> None:
    assert names.PAST_PATTERN.format(slot="key") % 3 == names.past_name(3, "key")
    assert names.PRESENT_PATTERN.format(slot="value") % 3 == names.present_name(3, "value")
