import json

from training.history import MAX_POINTS, History


def test_a_point_is_the_mean_of_the_steps_that_have_the_value() -> None:
    """A global step that was left out has a duration and no loss."""
    history = History.for_steps(3 * MAX_POINTS)
    for step, values in enumerate([{"loss": 2.0, "s": 1.0}, {"s": 4.0}, {"loss": 4.0, "s": 1.0}], start=1):
        history.add_step(step, values)
    assert history.curves == {"loss": [[3, 3.0]], "s": [[3, 2.0]]}


def test_a_curve_that_is_stored_half_way_through_a_point_goes_on_as_if_it_had_not_been() -> None:
    one, other = History.for_steps(2 * MAX_POINTS), History.for_steps(2 * MAX_POINTS)
    for step in range(1, 6):
        one.add_step(step, {"loss": step / 3})
        other.add_step(step, {"loss": step / 3})
        other = History.from_state(json.loads(json.dumps(other.state())))
    assert one == other and one.points_after(2) == [("loss", 4, (3 / 3 + 4 / 3) / 2)]
