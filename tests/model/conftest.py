"""Small networks and batches, made with one thread and one seed."""

from __future__ import annotations

from support import networks

_one_thread_one_seed = networks._one_thread_one_seed
config = networks.config
golden = networks.golden
golden_config = networks.golden_config
make_batch = networks.make_batch
plain = networks.plain
small = networks.small
