"""The pages at / and /queue: a person scores a payment, an analyst reviews some. Files of the package, read once; no build
step, no other host."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response

from tsa.serving.http.request_context import READING
from tsa.serving.problems import ProblemError

KINDS = {
    "index.html": "text/html",
    "queue.html": "text/html",
    "page.css": "text/css",
    "queue.css": "text/css",
    "shared.js": "text/javascript",
    "page.js": "text/javascript",
    "queue.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'"
)


def page_routes() -> APIRouter:
    """/, /queue and the files under /page."""
    router = APIRouter()
    folder = files("tsa.serving.http") / "page"
    contents = {name: (folder / name).read_bytes() for name in KINDS}

    def answer(name: str) -> Response:
        headers = {"content-security-policy": f"{POLICY}; frame-ancestors 'none'", "referrer-policy": "no-referrer"}
        return Response(contents[name], media_type=KINDS[name], headers=headers)

    async def index() -> Response:
        """The page."""
        return answer("index.html")

    async def queue() -> Response:
        """The analysts' queue."""
        return answer("queue.html")

    async def file(name: str) -> Response:
        """Their scripts, styles and icon."""
        if name not in contents:
            raise ProblemError(404, "not_found", "there is no such file", field="name", value=name)
        return answer(name)

    router.add_api_route("/", index, methods=READING)
    router.add_api_route("/queue", queue, methods=READING)
    router.add_api_route("/page/{name}", file, methods=READING)
    return router
