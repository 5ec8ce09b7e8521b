from __future__ import annotations

import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.gptq_settings import GptqSettings, GptqSettingsByModule

CONFIG = {"bits": 4, "group_size": 128, "desc_act": True, "sym": False}
USUAL = GptqSettings(4, 128, symmetric=False, act_order=True)


def test_fields_without_a_value_are_as_the_tools_have_them() -> None:
    settings = GptqSettings.of({"bits": 4, "group_size": 128})
    assert settings == GptqSettings(4, 128, symmetric=True, act_order=False)


@pytest.mark.parametrize("change", [{"static_groups": True}, {"group_size": -1}])
def test_groups_of_neighbours_keep_the_order(change: dict[str, object]) -> None:
    assert not GptqSettings.of(CONFIG | change).act_order


def test_every_module_has_the_usual_settings_without_exceptions() -> None:
    assert GptqSettingsByModule.of(CONFIG).for_module("model.layers.0.mlp.up_proj") == USUAL


def test_an_exception_changes_the_fields_it_names() -> None:
    settings = GptqSettingsByModule.of(CONFIG | {"dynamic": {r".*\.3\.": {"bits": 8}}})
    assert settings.for_module("model.layers.3.up") == GptqSettings(8, 128, False, True)
    assert settings.for_module("model.layers.4.up") == USUAL


def test_the_first_exception_that_matches_counts() -> None:
    dynamic = {r"-:.*down": {}, r"+:.*\.0\.": {"bits": 8}, ".*": {"bits": 2}}
    settings = GptqSettingsByModule.of(CONFIG | {"dynamic": dynamic})
    assert settings.for_module("layers.0.down") is None
    assert [settings.for_module(f"layers.{n}.up").bits for n in (0, 1)] == [8, 2]


def test_a_pattern_is_matched_from_the_beginning_of_the_name() -> None:
    settings = GptqSettingsByModule.of(CONFIG | {"dynamic": {"-:up": {}}})
    assert settings.for_module("layers.0.up") == USUAL
    assert settings.for_module("upper") is None


def test_what_is_wrong_with_an_exception_is_told_with_its_pattern() -> None:
    with pytest.raises(CheckpointError, match=r"dynamic, 'a': group_size is 0"):
        GptqSettingsByModule.of(CONFIG | {"dynamic": {"a": {"group_size": 0}}})
