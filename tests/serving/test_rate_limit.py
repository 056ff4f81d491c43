"""A token bucket for each client."""

from __future__ import annotations

from tsa.serving.rate_limit import TokenBucketLimiter


def test_a_client_has_a_bucket_of_its_own() -> None:
    now = [0.0]
    buckets = TokenBucketLimiter(2.0, 4.0, clock=lambda: now[0])
    assert [buckets.take("a") for _ in range(5)] == [None, None, None, None, None]
    assert buckets.take("a") == 1
    assert buckets.take("b") is None
    now[0] += 1.5
    assert buckets.take("a") is None
    assert TokenBucketLimiter(None, 1.0).take("a", 1e9) is None


def test_buckets_of_ever_new_clients_do_not_pile_up() -> None:
    now = [0.0]
    buckets = TokenBucketLimiter(1.0, 5.0, clock=lambda: now[0])
    for number in range(30_000):
        buckets.take(str(number))
        now[0] += 0.0001
    assert len(buckets._levels) <= 10_000
