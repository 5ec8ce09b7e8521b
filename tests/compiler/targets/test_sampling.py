"""The next token follows the options, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from castline.compiler.targets.sampling import Sampling, next_token, penalized, probabilities
from castline.errors import CastlineError

NOTHING_SEEN = np.array([], dtype=np.int64)


def row(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def draw(logits: np.ndarray, sampling: Sampling, count: int) -> list[int]:
    random = np.random.default_rng(sampling.seed)
    return [next_token(logits, sampling, NOTHING_SEEN, random) for _ in range(count)]


def test_the_default_is_the_likeliest_token() -> None:
    assert draw(row(1, 3, 2), Sampling(), 3) == [1, 1, 1]


def test_temperature_divides_the_logits() -> None:
    # exp(2 ln 3 / 2) : exp(0) = 3 : 1
    chances = probabilities(row(2 * np.log(3), 0), Sampling(temperature=2.0))
    np.testing.assert_allclose(chances, [0.75, 0.25], rtol=1e-6)


def test_top_k_keeps_the_k_likeliest() -> None:
    chances = probabilities(row(0, np.log(3), -1, np.log(6)), Sampling(temperature=1.0, top_k=2))
    np.testing.assert_allclose(chances, [0, 1 / 3, 0, 2 / 3], rtol=1e-6)


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    logits = np.log(row(0.5, 0.3, 0.2))
    np.testing.assert_allclose(
        probabilities(logits, Sampling(temperature=1.0, top_p=0.6)), [0.625, 0.375, 0], rtol=1e-6
    )


def test_top_p_keeps_at_least_one_token() -> None:
    chances = probabilities(row(1, 0), Sampling(temperature=1.0, top_p=1e-9))
    assert chances.tolist() == [1, 0]


def test_the_repetition_penalty_makes_seen_tokens_less_likely_whatever_their_sign() -> None:
    seen = np.array([0, 1, 1])
    assert penalized(row(4, -4, 4), seen, 2.0).tolist() == [2, -8, 4]


def test_the_penalty_changes_what_greedy_takes() -> None:
    random = np.random.default_rng(0)
    sampling = Sampling(repetition_penalty=2.0)
    assert next_token(row(4, 3), sampling, np.array([0]), random) == 1


def test_the_same_seed_draws_the_same_tokens() -> None:
    logits = np.zeros(50, dtype=np.float32)
    sampling = Sampling(temperature=1.0, seed=7)
    assert draw(logits, sampling, 20) == draw(logits, sampling, 20)
    assert draw(logits, sampling, 20) != draw(logits, Sampling(temperature=1.0, seed=8), 20)


def test_every_wrong_option_is_named_at_once() -> None:
    wrong = r"temperature is -1.*top_k is 0.*top_p is 2.*seed is -1"
    with pytest.raises(CastlineError, match=wrong) as error:
        Sampling(temperature=-1, top_k=0, top_p=2, seed=-1)
    assert "repetition_penalty" not in str(error.value)
