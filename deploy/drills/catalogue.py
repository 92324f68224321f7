"""All drills by name."""

from trial import Drill

_drills = {}


def drill(name, summary, rounds=1, seconds=0, limit_s=60, limit_round_s=60):
    """Registers a function as a drill."""

    def register(action):
        _drills[name] = Drill(name, summary, action, rounds, seconds, limit_s, limit_round_s)
        return action

    return register


def drills():
    """Imports every file of drills, and returns the drills in their order."""
    import quiet, leaders, slowness, roads, disks_fail, damage, reading, trimming, growth  # noqa: F401
    import logging_stops, hostile, backups, learner_disks, upgrading  # noqa: F401
    import members, members_killed, members_copy, members_year  # noqa: F401

    return _drills
