"""A folder as the legacy system leaves one: the golden single model, with artefacts made up for its sizes."""

from __future__ import annotations

from support import legacy_folder, networks

_one_thread_one_seed = networks._one_thread_one_seed
golden = networks.golden
golden_config = networks.golden_config
make_batch = networks.make_batch
plain = networks.plain
small = networks.small
original = legacy_folder.original
payments = legacy_folder.payments
