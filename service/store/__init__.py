"""All that the service keeps in Redis: jobs, queues, leases, journals, budgets. Every change is one script, so that
whatever dies in the middle, it has happened or it has not; every script can be sent again without doing harm.
"""

from service.store.connection import GONE, Scripts, Unreachable, stopped
from service.store.hearing import heard
from service.store.journal import RedisJournal, StaleLease
from service.store.nouns import Claim, Refusal
from service.store.store import Store

__all__ = [
    "GONE",
    "Claim",
    "RedisJournal",
    "Refusal",
    "Scripts",
    "StaleLease",
    "Store",
    "Unreachable",
    "heard",
    "stopped",
]
