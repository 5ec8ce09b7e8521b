from __future__ import annotations

import pytest

from castline.errors import PluginError
from castline.plugins.architectures import EVERY, architectures_from, capability_from


def test_capabilities_become_architectures_once_and_in_order() -> None:
    assert architectures_from(["12.0", " 8.9", "9.0", "9.0a", "8.9"]) == ("89", "90a", "120")


def test_every_architecture_has_its_capability() -> None:
    assert [capability_from(name) for name in EVERY] == ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]
    assert architectures_from(map(capability_from, EVERY)) == EVERY


@pytest.mark.parametrize(
    ("capability", "reason"),
    [
        ("sm_89", "'sm_89' is no compute capability"),
        ("", "'' is no compute capability"),
        ("7.5", "8.0 or later"),
    ],
)
def test_refuses_what_no_kernel_runs_on(capability: str, reason: str) -> None:
    with pytest.raises(PluginError, match=reason):
        architectures_from([capability])
