"""Warnings that a server logs when it starts: what is allowed, and probably not what was meant."""

from __future__ import annotations

import logging

from tsa.bundle.bundle import Bundle
from tsa.serving.auth import ANALYST, BearerTokens
from tsa.serving.scoring.reload_rules import ALLOW, is_evaluated
from tsa.serving.settings import ServeSettings

logger = logging.getLogger(__name__)


def warn_at_start(settings: ServeSettings, bundle: Bundle, tokens: BearerTokens) -> None:
    """Log a warning for a bundle that was not evaluated, and for a queue that nobody can open.

    Args:
        settings: How the server is run.
        bundle: What it scores with.
        tokens: The tokens that it accepts.
    """
    if not (is_evaluated(bundle) or settings.allow_unevaluated):
        logger.warning("the bundle was not evaluated (it has no metrics); a new one must be, unless %s is given", ALLOW)
    if settings.queue and not tokens.has(ANALYST):
        logger.warning("nobody can open the analysts' queue: no token has the role %s", ANALYST)
