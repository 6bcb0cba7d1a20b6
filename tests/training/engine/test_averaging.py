import pytest
import torch
from tiny_engine import started, update
from torch import Tensor

from training.averaging import average


@pytest.mark.usefixtures("one_rank")
def test_the_mean_is_the_same_from_whatever_stages_the_states_came() -> None:
    means = []
    for stages in ((0, 0, 0), (1, 3, 2)):
        captured = []
        for number, stage in enumerate(stages):
            engine = started(stage)
            update(engine, 2 + number)
            captured.append(engine.capture()[0])
        means.append(average(captured))
        for name, value in means[-1].items():
            assert value.dtype == torch.float32 and value.shape == captured[0][name].shape
            expected = sum(state[name].double() for state in captured) / 3
            assert torch.equal(value, expected.float())
    assert all(torch.allclose(value, means[1][name], atol=1e-6) for name, value in means[0].items())


def test_the_mean_of_equal_states_is_that_state_and_the_order_does_not_matter() -> None:
    draw = torch.Generator().manual_seed(0)
    states: list[dict[str, Tensor]] = [{"w": torch.randn(50, generator=draw)} for _ in range(3)]
    assert torch.equal(average([states[0]] * 3)["w"], states[0]["w"])
    assert torch.equal(average(states)["w"], average(states[::-1])["w"])


def test_states_of_different_parameters_have_no_mean() -> None:
    for other in ({"v": torch.ones(2)}, {"w": torch.ones(3)}, {}):
        with pytest.raises(ValueError, match="names or shapes"):
            average([{"w": torch.ones(2)}, other])
