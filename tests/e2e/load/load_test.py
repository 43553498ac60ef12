"""The figures of figures.py in their short form: every count must be right, no time is looked at."""

import bursts
import drain_load
import fairness
import killed_clients
import mixed_load
import scrapes

NOTHING = (0, 0, 0)  # running, waiting, blocks used


def test_every_call_of_a_mixed_load_ends_as_it_may():
    result = mixed_load.run(num_clients=60, seconds=4, processes=1)
    assert result.failures == 0, result.problems
    # And all the ways to end were seen.
    assert all(result.verdicts[name] for name in ("ok", "cancelled", "deadline", "invalid"))
    assert result.left == NOTHING and result.exit_code == 0


def test_a_signal_under_load_loses_nothing():
    result = drain_load.run(target=40, max_restarts=3, num_clients=60, processes=1)
    assert not result.problems
    assert result.in_flight >= 40 and result.accepted_in_grace > 0
    assert result.refused > 0 and result.exit_codes == {0}


def test_a_burst_fills_the_queue_and_no_more():
    result = bursts.run(bursts=4)
    assert not result.problems and result.accepted == [bursts.LIMIT] * 4
    assert result.left == NOTHING and result.exit_code == 0


def test_killed_clients_leave_nothing_behind():
    result = killed_clients.run(kills=25)
    assert result.left == NOTHING and result.exit_code == 0
    assert result.neighbour_changed == 0 < result.neighbour_texts
    # Some were caught in the middle of an answer.
    assert result.cancelled > 0 and result.free_count > 0


def test_a_flood_is_not_ahead_of_another_tenant():
    result = fairness.run(pairs=2)
    # First come, first served would let nearly the whole flood pass.
    assert max(result.overtaken_by) < fairness.FLOOD / 2
    assert result.left == NOTHING and result.exit_code == 0


def test_metrics_are_served_while_every_seat_is_busy():
    result = scrapes.run(scrapes=30, streams=16)
    assert result.bad == 0 and result.fewest_running > 0 and result.exit_code == 0
