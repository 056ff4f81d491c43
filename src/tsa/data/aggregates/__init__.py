"""Point-in-time aggregates of histories: counts, sums, gaps, repeated values and known outcomes, as numbers for trees.

    spec = AggregateSpec.of(store, rows_train, history_length="market")   # saved with `to_dict`
    compute_aggregates(spec, store, rows)              # (R, K): of a store, rows in any order
    compute_aggregates(spec, requests.seen)            # (B, K): of single payments with their histories, the same bits
    describe(spec, at, value)                          # "7 payments of this customer in the last hour"

Start with `AggregateSpec`. There is no second implementation: the product's trees, the endpoint and the baseline of
`tsa compare` use this one.
"""
