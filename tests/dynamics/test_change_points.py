"""Few false alarms, and changes that are found, whatever the noise: see `tests.simulations`."""

import pytest

from tests.simulations.change_points import CHANGELESS, false_alarms, power, snapshots

pytestmark = pytest.mark.slow  # simulations

X = snapshots().double().log()


@pytest.mark.parametrize("kind", ["correlated, 0.9", "larger early"])
def test_noise_is_no_change(kind):
    # of 20 curves, 5 or more pass once in 400 times where one in twenty does
    assert false_alarms(kind, X, n=20, n_simulations=39) <= 4 / 20


def test_a_change_of_a_fifth_of_a_nat_is_found():
    assert power(0.1, X, n=20, n_simulations=39) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(CHANGELESS))
def test_few_changeless_curves_pass(kind):
    # of 40 curves, 7 or more pass once in 300 times where one in twenty does
    assert false_alarms(kind, X, n=40, n_simulations=39) <= 6 / 40
