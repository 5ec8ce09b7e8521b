"""Check that the methods at few bits differ in nothing but what they are named for."""

from __future__ import annotations

from castline.compiler.recipes.load import load_recipe


def test_every_recipe_is_the_scheme_it_is_named_for() -> None:
    from qllm_cases import cases

    for case in cases():
        recipe = load_recipe(case.recipe, case.changes)
        assert recipe.weights is not None
        assert recipe.activations is not None
        assert case.scheme == f"W{recipe.weights.bits}A{recipe.activations.bits}"
        assert case.bits == recipe.weights.bits
        assert recipe.weights.group_size == "per-channel"
        assert recipe.weights.symmetric == (case.bits > 4)
        assert recipe.activations.granularity == "per-token"
        assert recipe.activations.scales == "dynamic"
        assert not recipe.activations.symmetric
        assert recipe.attention is None
        assert recipe.head == recipe.embedding == "keep"


def test_every_recipe_does_what_the_method_says_and_no_more() -> None:
    from qllm_cases import ALL, CORRECTED, REASSEMBLED, ROUND, SMOOTH, cases

    does = {
        ROUND: (False, False, False, "nearest"),
        SMOOTH: (True, False, False, "nearest"),
        REASSEMBLED: (False, True, False, "nearest"),
        CORRECTED: (False, True, True, "nearest"),
        ALL: (True, True, True, "compensated"),
    }
    for case in cases():
        recipe = load_recipe(case.recipe, case.changes)
        qllm = (recipe.reassembly is not None, recipe.correction is not None)
        assert (recipe.folds, *qllm, recipe.rounding) == does[case.method]
        assert recipe.needs_calibration == case.needs_plan
        assert recipe.clipping is None


def test_every_correction_learns_as_long_as_the_others() -> None:
    from qllm_cases import cases

    recipes = [load_recipe(case.recipe, case.changes) for case in cases()]
    found = {(one.epochs, one.learning_rate) for recipe in recipes if (one := recipe.correction)}
    assert found == {(4, 0.001)}


def test_the_four_schemes_have_all_methods_once() -> None:
    from qllm_cases import OURS, cases

    names = [(case.scheme, case.method) for case in cases()]
    expected = [(scheme, method) for scheme in ("W4A4", "W4A8", "W6A6", "W8A8") for method in OURS]
    assert names == expected


def test_all_read_the_tokens_of_the_other_suites() -> None:
    from accuracy_cases import CALIBRATION
    from accuracy_tokens import RECIPE
    from qllm_cases import cases

    given = load_recipe(RECIPE, [CALIBRATION]).calibration
    for case in cases():
        assert load_recipe(case.recipe, case.changes).calibration == given


def test_the_suite_keeps_a_result_of_its_own() -> None:
    from accuracy import SUITES
    from qllm_cases import cases

    suite = SUITES["qllm"]
    assert (suite.result, suite.threads) == ("accuracy-qllm", SUITES["weight-only"].threads)
    assert suite.cases == tuple(cases())
    assert len({each.result for each in SUITES.values()}) == len(SUITES)
