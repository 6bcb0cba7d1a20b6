"""Charts as geometry."""

import pytest

from flows.overview_charts import Series, draw


@pytest.mark.parametrize(
    ("times", "first", "last"),
    [
        (("2026-03-01T06:00:00Z", "2026-03-08T06:00:00Z"), "2026-03-01", "2026-03-08"),
        (("2026-03-01T06:00:00Z", "2026-03-01T07:30:00Z"), "2026-03-01 06:00", "2026-03-01 07:30"),
    ],
)
def test_the_ends_of_a_chart_are_told_apart(times: tuple[str, str], first: str, last: str) -> None:
    chart = draw([Series("cider", [(times[0], 0.5), (times[1], 0.6)])], from_zero=False)
    assert chart is not None and (chart.first, chart.last) == (first, last)
    assert chart.told == f"From {first} to {last}. cider: 0.500, last 0.600."
