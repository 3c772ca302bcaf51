"""Lease events for whoever watches: each listener has a bounded queue, and one that reads too slowly is dropped.

The narrator feeds it from its own thread, a bounded number of events a second: the DHCP loop knows of no listener.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from cocoon_net.events import Event

KEPT = 50
"""Events that a newcomer is shown."""

WAITING = 500
"""Events that one listener may have before it; beyond them it is dropped, and told so."""

LISTENERS = 8
"""Listeners at the same time."""

Document = dict[str, Any]


def as_document(event: Event) -> Document:
    """Return an event as JSON knows it: its kind, and its fields as text."""
    fields = {name: getattr(event, name) for name in type(event).__dataclass_fields__}
    return {
        "event": type(event).__name__,
        **{name: _plain(value) for name, value in fields.items() if value != ""},
    }


def _plain(value: Any) -> Any:
    match value:
        case int():
            return value
        case datetime():
            return value.strftime("%Y-%m-%dT%H:%M:%SZ")
        case _:
            return str(value)


class Listener:
    """One who listens; ``next`` belongs to its thread."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._queue: deque[Document] = deque()
        self._ready = threading.Condition()
        self.ended = ""
        """Why no more will come; empty while it will."""

    def next(self, seconds: float) -> list[Document]:
        """Return what has come; nothing when nothing does for so long, or when it has ended."""
        with self._ready:
            if not self._queue and not self.ended:
                self._ready.wait(seconds)
            taken = list(self._queue)
            self._queue.clear()
            return taken

    def put(self, document: Document) -> None:
        """Add one event; a queue that is full ends it."""
        with self._ready:
            if self.ended:
                return
            if len(self._queue) >= WAITING:
                self._queue.clear()
                self.ended = f"dropped: {WAITING} events were not read in time"
            else:
                self._queue.append(document)
            self._ready.notify()

    def end(self, why: str) -> None:
        """Wake it up for the last time."""
        with self._ready:
            self.ended = self.ended or why
            self._ready.notify()

    def close(self) -> None:
        """Listen no more."""
        self._feed.leave(self)


class Feed:
    """The events of late, and those who listen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: deque[Document] = deque(maxlen=KEPT)
        self._listeners: set[Listener] = set()
        self._closed = False
        self.heard = False
        """Whether anybody listens right now."""

    def publish(self, event: Event) -> None:
        """Hand an event to everybody who listens."""
        document = as_document(event)
        with self._lock:
            self._latest.append(document)
            listeners = list(self._listeners)
        for listener in listeners:
            listener.put(document)

    def latest(self) -> list[Document]:
        """Return the events of late, the oldest first."""
        with self._lock:
            return list(self._latest)

    def listen(self) -> Listener | None:
        """Return a listener to be closed; None when there are too many, or the service stops."""
        with self._lock:
            if self._closed or len(self._listeners) >= LISTENERS:
                return None
            listener = Listener(self)
            self._listeners.add(listener)
            self.heard = True
            return listener

    def leave(self, listener: Listener) -> None:
        """Forget a listener."""
        with self._lock:
            self._listeners.discard(listener)
            self.heard = bool(self._listeners)

    def close(self) -> None:
        """End everybody's listening, for good."""
        with self._lock:
            self._closed = True
            listeners = list(self._listeners)
        for listener in listeners:
            listener.end("the service stops")


def lines(listener: Listener, patience: float) -> Iterator[bytes]:
    """Yield newline-delimited JSON (an empty line now and then keeps the connection known to be alive), to its end."""
    yield from _rendered(listener, patience, lambda document: _json(document) + b"\n", b"\n")


def server_sent(listener: Listener, patience: float) -> Iterator[bytes]:
    """Yield server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), to the end."""
    yield from _rendered(listener, patience, lambda document: b"data: " + _json(document) + b"\n\n", b": alive\n\n")


def _rendered(listener: Listener, patience: float, render: Any, alive: bytes) -> Iterator[bytes]:
    try:
        yield alive
        while True:
            taken = listener.next(patience)
            yield b"".join(map(render, taken)) or alive
            if listener.ended:
                yield render({"event": "End", "why": listener.ended})
                return
    finally:
        listener.close()


def _json(document: Document) -> bytes:
    import json

    return json.dumps(document).encode()
