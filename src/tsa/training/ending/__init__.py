"""How a run ends before its last epoch: by a limit on time."""
