"""Where things are: what the environment says, and what holds where it is silent."""

from __future__ import annotations

from pathlib import Path

from cocoon_net.site import STATE_DIR, Site


def test_an_environment_that_is_silent_leaves_every_place_at_its_default() -> None:
    assert Site.from_environment({}) == Site()
    assert Site.from_environment({"COCOON_NET_STATE_DIR": "", "COCOON_NET_WORKFLOW_DIR": ""}) == Site()
    assert Site().state_dir == STATE_DIR
    assert Site().workflow_dir is None, "the shipped workflows"


def test_each_place_is_named_by_its_variable() -> None:
    site = Site.from_environment(
        {
            "COCOON_NET_STATE_DIR": "/a",
            "COCOON_NET_CNI_CONF_DIR": "/b",
            "COCOON_NET_RUN_DIR": "/c",
            "COCOON_NET_METADATA_URL": "http://127.0.0.1:1/",
            "COCOON_NET_WORKFLOW_DIR": "/d",
            "VOLCENGINE_ENDPOINT": "http://127.0.0.1:2/",
        }
    )
    assert site == Site(
        state_dir=Path("/a"),
        cni_conf_dir=Path("/b"),
        run_dir=Path("/c"),
        metadata_url="http://127.0.0.1:1",
        endpoint="http://127.0.0.1:2",
        workflow_dir=Path("/d"),
    )
