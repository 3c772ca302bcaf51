"""When cycles are searched for: not while the daemon comes up, and never again in what was there when it served."""

from __future__ import annotations

import gc

from cocoon_net.supervisor import collector


def test_nothing_is_searched_while_the_daemon_comes_up() -> None:
    before = gc.get_threshold()
    with collector.resting():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_threshold() == before


def test_what_is_there_when_it_serves_is_not_searched_again() -> None:
    with collector.resting():
        here: list[object] = []
        here.append(here)
        collector.settle()
        assert gc.isenabled() and gc.get_threshold() == collector.SELDOM
        assert not any(one is here for one in gc.get_objects()) and gc.get_freeze_count()
    assert not gc.get_freeze_count()


def test_what_comes_later_is_found() -> None:
    class Node:
        """Refers to itself."""

        itself: object = None

    with collector.resting():
        collector.settle()
        gc.disable()
        node = Node()
        node.itself = node
        del node
        assert any(isinstance(one, Node) for one in gc.get_objects())
        collector.collect()
        assert not any(isinstance(one, Node) for one in gc.get_objects())
