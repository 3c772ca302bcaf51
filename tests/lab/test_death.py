"""Death at exactly one moment: by SIGKILL, before or after a thing has happened, and never at another one."""

from __future__ import annotations

import http.server
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cocoon_net.lab.death import Moment

PROGRAM = """
import http.client, os, sqlite3, sys
from cocoon_net.lab.death import Moment, arm
arm(int(sys.argv[1]), Moment.parse(sys.argv[2]) if sys.argv[2] else None)
database = sqlite3.connect(sys.argv[3])
database.execute("CREATE TABLE IF NOT EXISTS told (what TEXT)")
for what in ("one", "two"):
    database.execute("BEGIN")
    database.execute("INSERT INTO told VALUES (?)", [what])
    database.execute("COMMIT")
with database:
    database.execute("INSERT INTO told VALUES ('three')")
for path in ("/?Action=First", "/?Action=Second"):
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[4]))
    connection.request("GET", path)
    connection.getresponse().read()
os.rename(sys.argv[3] + ".old", sys.argv[3] + ".new")
"""


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    asked: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = asked  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("moment", "told", "asked", "renamed"),
    [
        ("", ["one", "two", "three"], ["/?Action=First", "/?Action=Second"], True),
        ("write-1-before", [], [], False),
        ("write-1-after", ["one"], [], False),
        ("write-2-before", ["one"], [], False),
        ("write-3-before", ["one", "two"], [], False),
        ("write-3-after", ["one", "two", "three"], [], False),
        ("call-1-before", ["one", "two", "three"], [], False),
        ("call-1-after", ["one", "two", "three"], ["/?Action=First"], False),
        ("call-2-before", ["one", "two", "three"], ["/?Action=First"], False),
        ("act-1-before", ["one", "two", "three"], ["/?Action=First", "/?Action=Second"], False),
    ],
)
def test_a_process_dies_at_its_moment_and_at_no_other(
    server: http.server.ThreadingHTTPServer,
    tmp_path: Path,
    moment: str,
    told: list[str],
    asked: list[str],
    renamed: bool,
) -> None:
    path, report = tmp_path / "book", tmp_path / "report"
    path.with_suffix(".old").touch()
    with report.open("wb") as file:
        arguments = [str(file.fileno()), moment, str(path), str(server.server_address[1])]
        done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], pass_fds=[file.fileno()], timeout=30)
    assert done.returncode == (-signal.SIGKILL if moment else 0)
    with closing(sqlite3.connect(path)) as database:
        assert [what for (what,) in database.execute("SELECT what FROM told")] == told
    assert server.asked == asked  # type: ignore[attr-defined]
    assert path.with_suffix(".new").exists() is renamed
    passed = report.read_text().splitlines()
    if moment:
        assert passed[-1].startswith(f"{moment} "), "the last moment it told of is the one it died at"
    else:
        counted = [line.split()[0] for line in passed]
        assert counted == [
            *(f"write-{number}-{side}" for number in (1, 2, 3) for side in ("before", "after")),
            *(f"call-{number}-{side}" for number in (1, 2) for side in ("before", "after")),
            "act-1-before",
        ]
        assert passed[6] == "call-1-before First", "a call is told by its action"


@pytest.mark.parametrize("text", ["", "write", "write-1", "write-x-before", "write-1-during", "sleep-1-before"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Moment.parse(text)


def test_a_moment_is_repeated_from_its_text() -> None:
    moment = Moment("call", 12, "after")
    assert Moment.parse(str(moment)) == moment
