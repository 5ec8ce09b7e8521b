"""Check that ours and the peers are told the same schemes, and what each can do."""

from __future__ import annotations

from castline.compiler.recipes.load import load_recipe


def test_our_recipe_is_the_scheme_that_the_peers_are_told() -> None:
    from accuracy_cases import CASTLINE
    from w8a8_cases import cases

    for case in cases():
        if case.tool != CASTLINE:
            continue
        recipe = load_recipe(case.recipe, case.changes)
        assert recipe.weights is not None
        assert recipe.activations is not None
        assert recipe.weights.group_size == case.levels.weights
        granularity = recipe.activations.granularity.removeprefix("per-")
        assert f"{granularity}-{recipe.activations.scales}" == case.levels.activations
        assert recipe.weights.bits == recipe.activations.bits == case.bits
        assert recipe.folds == case.smooth
        assert recipe.head == recipe.embedding == "keep"  # as the peers leave them


def test_the_papers_sites_are_those_behind_norms() -> None:
    from accuracy_cases import SAMPLE
    from w8a8_cases import O3, Case

    case = Case(SAMPLE, "castline", O3, 8, smooth=True, norm_sites=True)
    assert load_recipe(O3.recipe, case.changes).smoothing.sites == ("norm",)
    every = Case(SAMPLE, "castline", O3, 8, smooth=True)
    assert load_recipe(O3.recipe, every.changes).smoothing.sites == ("norm", "value", "up", "relu")


def test_no_case_comes_twice() -> None:
    from w8a8_cases import cases

    all_cases = list(cases())
    assert len(set(all_cases)) == len(all_cases)


def test_every_smoothed_case_of_a_peer_has_ours_at_the_same_scheme() -> None:
    from accuracy_cases import CASTLINE
    from w8a8_cases import cases

    def place(case: object) -> tuple[object, ...]:
        return tuple(getattr(case, key) for key in ("model", "levels", "bits", "smooth"))

    ours = {place(case) for case in cases() if case.tool == CASTLINE}
    assert {place(case) for case in cases() if case.tool != CASTLINE} <= ours
