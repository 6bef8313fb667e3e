"""Token buckets: exact, and never more than their rate over any stretch of time."""

from hypothesis import given
from hypothesis import strategies as st

from fedjaxlite.transport import limits
from fedjaxlite.transport.limits import Bucket, Limits, Rate

RATES = st.builds(Rate, st.floats(0.5, 100), st.floats(1, 100))
STEPS = st.lists(st.tuples(st.floats(0, 3), st.floats(0, 20)), max_size=40)


@given(RATES, STEPS)
def test_who_waits_as_told_gets_no_more_than_the_rate(rate, steps):
    now, taken, bucket = 0.0, 0.0, limits.full(rate, 0.0)
    for pause, amount in steps:
        now += pause
        bucket, wait = limits.take(bucket, rate, amount, now)
        taken += amount
        now += wait
        assert taken <= rate.burst + rate.per_second * now + 1e-6 * (1 + taken)
        assert bucket.left <= rate.burst


@given(RATES, st.floats(0, 1000))
def test_a_rest_fills_a_bucket_to_its_burst_and_no_further(rate, rest):
    bucket, _ = limits.take(limits.full(rate, 0.0), rate, rate.burst, 0.0)
    bucket, wait = limits.take(bucket, rate, 0.0, rest)
    assert wait == 0.0
    assert bucket.left <= rate.burst
    assert bucket.left >= min(rate.burst, rest * rate.per_second) - 1e-9 * rate.burst


def test_a_clock_that_goes_back_gives_nothing():
    rate = Rate(1.0, 2.0)
    bucket, wait = limits.take(Bucket(0.0, 10.0), rate, 1.0, 5.0)
    assert bucket == Bucket(-1.0, 10.0)
    assert wait == 1.0


def test_connections_are_counted_for_all_and_for_each_address():
    few = Limits(connections=3, per_address=2)
    assert limits.turned_away(few, connections=2, from_address=1) == ""
    assert "3 connections are open, of 3" in limits.turned_away(few, connections=3, from_address=0)
    assert "2 connections of its address" in limits.turned_away(few, connections=2, from_address=2)
