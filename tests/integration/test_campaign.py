"""The campaign of tests/campaign.py for a minute; make campaign runs longer ones."""

from __future__ import annotations

import json
import os

from tests.campaign import campaign

SECONDS = 60.0


def test_whatever_is_killed_no_message_is_lost_and_none_comes_twice() -> None:
    seed = int(os.environ.get("CAMPAIGN_SEED", "0")) or int.from_bytes(os.urandom(4))
    with campaign(SECONDS, seed) as found:
        found.run()
        figures = found.figures()
        assert figures["problems"] == [], json.dumps(figures, ensure_ascii=False, indent=2)
        assert figures["reports"] > 1000, "it was a campaign"
        assert len(figures["faults"]) >= 5, "and things broke"
        assert len(figures["misbehaviours"]) >= 5, "and the server went astray"
