"""Which roles a token needs for each address. Any one of the roles is enough."""

from __future__ import annotations

from tsa.serving.auth import ADMIN, ANALYST, SCORE, Credentials, Grant
from tsa.serving.problems import ProblemError

OPEN = ("/ping", "/v2/health/live", "/v2/health/ready", "/", "/queue")
"""Addresses that need no token: for load balancers, and for the pages where a token is entered."""
OPEN_FOLDER = "/page/"
ROLES_BY_PATH = {
    "/v1/score": {SCORE},
    "/v1/score/flat": {SCORE},
    "/v1/outcome": {SCORE, ANALYST},
    "/invocations": {SCORE},
    "/v1/form": {SCORE, ANALYST},
    "/metrics": {SCORE, ADMIN},
    "/openapi.json": {SCORE, ANALYST, ADMIN},
}
ROLES_BY_FOLDER = {"/v1/admin/": {ADMIN}, "/v1/queue": {ANALYST}, "/v2": {SCORE}}
ANY = {SCORE, ANALYST, ADMIN}
"""For addresses that do not exist: whoever has a token learns that they do not."""
CLOSED = (ADMIN, ANALYST)
"""Without a token of such a role, nobody has access."""


def needed_roles(path: str) -> set[str] | None:
    """The roles of which a token needs one for an address; None if no token is needed."""
    if path in OPEN or path.startswith(OPEN_FOLDER):
        return None
    if path in ROLES_BY_PATH:
        return ROLES_BY_PATH[path]
    return next((roles for folder, roles in ROLES_BY_FOLDER.items() if path.startswith(folder)), ANY)


def check_access(credentials: Credentials, roles: set[str], grant: Grant | None) -> None:
    """Raise ProblemError if a token does not allow access.

    Args:
        roles: Those of which the token needs one.
        grant: What the token allows; None for none, or an unknown one.
    """
    if SCORE in roles and credentials.is_open:
        return
    if grant is not None and roles & grant.roles:
        return
    if len(roles) == 1 and (role := next(iter(roles))) in CLOSED and not credentials.tokens.has(role):
        article = "an" if role[0] in "a" else "a"
        raise ProblemError(403, f"no_{role}", f"this server was started without {article} {role} token")
    if grant is None:
        detail = "a valid bearer token must be given"
        raise ProblemError(401, "token", detail, headers={"WWW-Authenticate": "Bearer"})
    raise ProblemError(403, "role", f"the token must have the role {' or '.join(sorted(roles))}")
