"""Check that ours and the peers are told the same forms of weights, and what each can do."""

from __future__ import annotations

from castline.compiler.recipes.load import load_recipe


def test_our_recipe_is_the_form_that_the_peers_are_told() -> None:
    from accuracy_cases import CASTLINE
    from weight_only_cases import QUICK, ROUND, cases

    for case in cases():
        if case.tool != CASTLINE:
            continue
        recipe = load_recipe(case.recipe, case.changes)
        assert recipe.weights is not None
        assert recipe.activations is None
        assert recipe.weights.bits == case.task["bits"] == case.bits
        assert recipe.weights.group_size == case.task["group_size"]
        assert recipe.weights.symmetric == case.task["symmetric"]
        assert recipe.head == recipe.embedding == "keep"  # as the peers leave them
        assert (recipe.algorithm == "round-to-nearest") == (case.method in {ROUND, QUICK})


def test_ours_reads_the_tokens_that_the_peers_get() -> None:
    from accuracy_cases import CALIBRATION, CASTLINE
    from accuracy_tokens import RECIPE
    from weight_only_cases import cases

    given = load_recipe(RECIPE, [CALIBRATION]).calibration
    for case in cases():
        if case.tool == CASTLINE:
            assert load_recipe(case.recipe, case.changes).calibration == given


def test_no_case_comes_twice() -> None:
    from weight_only_cases import cases

    all_cases = list(cases())
    assert len(set(all_cases)) == len(all_cases)


def test_every_symmetric_scheme_has_all_of_our_methods_and_a_peer_where_one_can() -> None:
    from accuracy_cases import CASTLINE
    from weight_only_cases import COMPENSATED, OURS, ROUND, cases

    methods: dict[tuple[int, str], set[str]] = {}
    peers = set()
    for case in cases():
        place = (case.bits, case.scheme)
        if case.tool == CASTLINE:
            methods.setdefault(place, set()).add(case.method)
        else:
            peers.add(place)
    symmetric = {place for place in methods if "zero-points" not in place[1]}
    assert symmetric == {(bits, f"g{group}") for bits in (4, 3) for group in (32, 64, 128)}
    for place, found in methods.items():
        assert found == (set(OURS) if place in symmetric else {ROUND, COMPENSATED})
    assert set(methods) - peers == {(3, "g128")}  # no peer has it on a CPU


def test_a_peer_is_not_asked_for_what_it_cannot() -> None:
    from accuracy_cases import AUTOAWQ, LLM_COMPRESSOR, MODELOPT, NNCF
    from weight_only_cases import cases

    for case in cases():
        if case.tool == MODELOPT:
            assert case.form.symmetric
        if case.tool == NNCF:
            assert case.bits == 4
        if case.tool in (AUTOAWQ, LLM_COMPRESSOR):
            assert 576 % case.form.group_size == 0


def test_every_peer_has_its_script_and_its_environment() -> None:
    from accuracy import HERE, SUITES
    from accuracy_cases import CASTLINE
    from peer_environment import REQUIREMENTS

    for suite in SUITES.values():
        for case in suite.cases:
            if case.tool != CASTLINE:
                assert (HERE / "peers" / case.script).is_file()
                assert case.tool in REQUIREMENTS
