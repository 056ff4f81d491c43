"""A webhook gets a document once; a server that fails is tried again, and its address is in no log."""

from __future__ import annotations

import logging

import pytest

from support.webhook_receiver import SECRET, receiver
from tsa.errors import ConfigError
from tsa.monitoring.watching.webhook import PAUSES_SECONDS, Webhook


def test_a_document_arrives_with_the_token() -> None:
    with receiver(204) as (url, got):
        assert Webhook(url=url, token="abc").send({"text": "drift é"})
    assert [one["body"] for one in got] == [{"text": "drift é"}]
    assert got[0]["path"] == f"/{SECRET}"
    assert got[0]["headers"]["Authorization"] == "Bearer abc"


@pytest.mark.parametrize(
    ("statuses", "tries", "reached"),
    [((503, 200), 2, True), ((503,), 3, False), ((404,), 1, False), ((302,), 1, False)],
)
def test_tries_are_bounded(
    statuses: tuple[int, ...], tries: int, reached: bool, caplog: pytest.LogCaptureFixture
) -> None:
    paused: list[float] = []
    with receiver(*statuses) as (url, got), caplog.at_level(logging.DEBUG):
        assert Webhook(url=url).send({}, paused.append) == reached
    assert len(got) == tries
    assert paused == list(PAUSES_SECONDS[: tries - 1])
    assert ("was not reached: it answered with HTTP" in caplog.text) != reached
    assert "secret" not in caplog.text


def test_no_server_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with receiver(200) as (url, _):
        pass
    with caplog.at_level(logging.DEBUG):
        assert not Webhook(url=url, token="my-token").send({}, lambda seconds: None)
    assert "the webhook at 127.0.0.1 was not reached: Connection refused" in caplog.text
    assert "secret" not in caplog.text
    assert "my-token" not in caplog.text


@pytest.mark.parametrize(
    "url",
    ["ftp://host/secret", "https:///secret", "https://host/a secret", "http://host:port/secret", "https://a:secret@h/"],
)
def test_bad_addresses_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="the webhook") as refused:
        Webhook(url=url)
    assert "secret" not in str(refused.value)
    with pytest.raises(ConfigError, match="token of the webhook"):
        Webhook(url="https://host/", token="a\nb")
    assert "secret" not in repr(Webhook(url="https://host/secret", token="secret"))
