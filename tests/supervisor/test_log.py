"""What comes out of the log: one line a fact, and never a secret."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from cocoon_net.supervisor import log

SECRET = "TWpJNFpEZzBabUU0TkRJNE5EQmpaVGt4T0dVd01qVTROakl6WVRJME1EQQ=="


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    out = io.StringIO()
    yield out
    logger.remove()
    logging.basicConfig(handlers=[], force=True)
    logging.captureWarnings(False)


def test_a_fact_is_one_line_with_its_fields_and_no_colour(stream: io.StringIO) -> None:
    log.configure({}, stream)
    logger.bind(mac="02:00:00:00:00:01", host="a b").info("lease bound")
    (line,) = stream.getvalue().splitlines()
    assert re.fullmatch(
        r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    lease bound mac=02:00:00:00:00:01 host="a b"', line
    )


def test_a_message_of_several_lines_becomes_one(stream: io.StringIO) -> None:
    log.configure({}, stream)
    logger.info("first {}\nsecond", "{braces}")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("first {braces}; second")


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["a", "b", "c", "d"]),
        ("info", ["b", "c", "d"]),
        ("WARN", ["c", "d"]),
        ("error", ["d"]),
    ],
)
def test_the_level_comes_from_the_environment(stream: io.StringIO, level: str, seen: list[str]) -> None:
    log.configure({"COCOON_NET_LOG_LEVEL": level}, stream)
    logger.debug("a")
    logger.info("b")
    logger.warning("c")
    logger.error("d")
    assert [line[-1] for line in stream.getvalue().splitlines()] == seen


def test_a_misspelt_level_is_complained_about_and_taken_for_info(stream: io.StringIO) -> None:
    log.configure({"COCOON_NET_LOG_LEVEL": "chatty"}, stream)
    logger.debug("quiet")
    logger.info("heard")
    complaint, heard = stream.getvalue().splitlines()
    assert "'chatty'" in complaint and "WARNING" in complaint
    assert heard.endswith("heard")


def test_a_librarys_log_goes_the_same_way_and_its_chatter_does_not(stream: io.StringIO) -> None:
    log.configure({}, stream)
    logging.getLogger("apscheduler.scheduler").info("Scheduler started")
    logging.getLogger("apscheduler.scheduler").error("job %s failed", "look")
    logging.getLogger("somebody").info("hello")
    failed, hello = stream.getvalue().splitlines()
    assert "ERROR" in failed and failed.endswith("apscheduler.scheduler: job look failed")
    assert hello.endswith("somebody: hello")


@pytest.mark.parametrize(
    "text",
    [
        f"config is secret_access_key={SECRET}",
        f"config is {json.dumps({'secret_access_key': SECRET, 'region': 'cn-beijing'})}",
        f"config is {{'secret-key': '{SECRET}', 'region': 'cn-beijing'}}",
        f"VOLCENGINE_SECRET_KEY={SECRET}",
        f"SecretAccessKey: {SECRET}",
        f"X-Security-Token: {SECRET}",
        f"'session-token': '{SECRET}'",
        f"x-volc-ecs-metadata-token: {SECRET}",
        f"Authorization: HMAC-SHA256 Credential=AKLT/x, SignedHeaders=host;x-date, Signature={SECRET}",
        "GET /?Action=DescribeSubnets&X-Signature=0123456789abcdef0123456789abcdef",
        f"the session token is STS{SECRET}",
        f"the secret key is {SECRET}",
    ],
)
def test_what_is_named_like_a_secret_is_blacked_out(stream: io.StringIO, text: str) -> None:
    log.configure({}, stream)
    logger.info("{}", text)
    assert SECRET not in stream.getvalue()
    assert "0123456789abcdef" not in stream.getvalue()
    assert log.BLACK in stream.getvalue()


def test_the_secrets_of_the_environment_are_blacked_out_wherever_they_are(stream: io.StringIO) -> None:
    log.configure({"VOLCENGINE_SECRET_ACCESS_KEY": SECRET, "VOLCENGINE_SESSION_TOKEN": "tok-12345678"}, stream)
    logger.bind(odd=SECRET).info("a word like {} or tok-12345678", SECRET)
    try:
        raise ValueError(SECRET)
    except ValueError:
        logger.exception("failed")
    assert SECRET not in stream.getvalue() and "tok-12345678" not in stream.getvalue()
    assert "ValueError: ***" in stream.getvalue()


def test_ordinary_words_survive(stream: io.StringIO) -> None:
    log.configure({"VOLCENGINE_SECRET_ACCESS_KEY": "short"}, stream)
    text = "ClientToken=8d1 retried; signature=none; eni-1 in subnet-2 is short of 3 addresses"
    logger.info("{}", text)
    assert stream.getvalue().rstrip().endswith(text)


KEY_ID = "AKLTYjQ5NzQ2ZmQwZTQ3NDc1N2I2ZTZhMjQyNDZhNTQ1ZjM"
TOKEN = "STS2" + "eyJMVEFjY2Vzc0tleUlkIjoiQUtMVFlqUTVOelEyIiwiU2lnbmVkIjoiMSJ9" * 3


class Denied(Exception):
    """As the SDK raises it: the whole request is in its text."""

    def __str__(self) -> str:
        return (
            f"(403) headers: {{'X-Security-Token': '{TOKEN}', 'Authorization': 'HMAC-SHA256 Credential={KEY_ID}/2026, "
            f"SignedHeaders=host, Signature=0123456789abcdef0123456789abcdef'}}\\nbody: "
            + json.dumps({"secret_access_key": SECRET, "session_token": TOKEN, "access_key_id": KEY_ID})
        )


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_failed_call_with_all_its_secrets_is_logged_without_them(stream: io.StringIO, form: str) -> None:
    log.configure({"COCOON_NET_LOG_FORMAT": form, "COCOON_NET_LOG_LEVEL": "debug"}, stream)
    try:
        raise Denied
    except Denied as error:
        logger.bind(secret_key=SECRET, quoted=f'{{"secret_key": "{SECRET}"}}').exception("refused: {}", error)
        logging.getLogger("volcenginesdkcore.rest").error("%s", error, exc_info=True)
        logging.getLogger("urllib3").warning("header: Authorization: %s", f"HMAC-SHA256 Credential={KEY_ID}")
    text = stream.getvalue()
    for secret in (SECRET, TOKEN, TOKEN[:40], KEY_ID, "0123456789abcdef"):
        assert secret not in text, text
    assert text.count(log.BLACK) >= 10 and "Denied" in text and "refused" in text


def test_json_is_one_object_a_line_with_the_fields_beside_the_message(stream: io.StringIO) -> None:
    log.configure({"COCOON_NET_LOG_FORMAT": "json"}, stream)
    logger.bind(mac="02:00:00:00:00:01", message="not the message").info('lease "bound"\nfor {}', "{a}")
    try:
        raise ValueError("x")
    except ValueError:
        logger.exception("failed")
    bound, failed = map(json.loads, stream.getvalue().splitlines())
    assert bound["message"] == 'lease "bound"\nfor {a}'
    assert bound["mac"] == "02:00:00:00:00:01" and bound["level"] == "info"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", bound["at"])
    assert failed["exception"].endswith("ValueError: x\n")


def test_a_format_that_nobody_knows_is_complained_about(stream: io.StringIO) -> None:
    log.configure({"COCOON_NET_LOG_FORMAT": "xml"}, stream)
    logger.info("heard")
    complaint, heard = stream.getvalue().splitlines()
    assert "'xml'" in complaint and heard.endswith("heard")


def test_to_journald_goes_a_priority_instead_of_the_time(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        found = os.fstat(stream.fileno())
        log.configure({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, stream)
        logger.bind(mac="a").info("lease bound")
        logger.warning("hm")
        try:
            raise ValueError("x")
        except ValueError:
            logger.exception("failed")
        stream.seek(0)
        bound, hm, failed, *rest = stream.read().splitlines()
    logger.remove()
    assert (bound, hm, failed) == ("<6>lease bound mac=a", "<4>hm", "<3>failed")
    assert rest and all(line.startswith("<3>") for line in rest)


def test_a_stream_that_is_not_journalds_keeps_its_times(tmp_path: Path, stream: io.StringIO) -> None:
    with (tmp_path / "file").open("w") as elsewhere:
        assert not log.is_journal({"JOURNAL_STREAM": "1:2"}, elsewhere)
        assert not log.is_journal({}, elsewhere)
    assert not log.is_journal({"JOURNAL_STREAM": "1:2"}, stream)
