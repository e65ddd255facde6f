"""Which life of a run this is: torchrun may start all ranks anew after a failure, on every node.

torchrun counts restarts on each node for itself, so ranks of one life may have other counts; and
its store outlives them, with what dead ranks wrote. So rank 0 names each life, and the others make
sure that they heard it from the rank 0 that lives: it answers with the numbers they drew.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from datetime import timedelta
from typing import Any, NamedTuple

ROOT = "tokenkit/life"


class Life(NamedTuple):
    """One start of all ranks.

    Attributes:
        name: unlike that of any other life.
        number: from 1 on.
    """

    name: str
    number: int


_current: list[Life] = []


def this_life() -> Life | None:
    """What :func:`agree_on_life` has found; None before."""
    return _current[-1] if _current else None


def restarted() -> bool:
    """Whether torchrun started this run anew, after a failure."""
    life = this_life()
    if life is None:
        return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    return life.number > 1


def launchers_store(seconds: float = 5.0) -> Any:
    """A client of the store that torchrun keeps for its ranks; None without torchrun."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import TCPStore

    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        timeout = timedelta(seconds=seconds)
        return TCPStore(address, port, is_master=False, timeout=timeout)
    except (KeyError, ValueError, RuntimeError):
        return None


def agree_on_life(rank: int, world: int, timeout: timedelta) -> Life:
    """The life that all ranks are in; waits for all of them.

    Raises:
        TimeoutError: if some do not come.
    """
    store = launchers_store()
    if store is None:
        restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        found = Life(str(restart), restart + 1)
    else:
        end = time.monotonic() + timeout.total_seconds()
        found = _lead(store, world, end) if rank == 0 else _follow(store, rank, end)
    _current.append(found)
    return found


def _lead(store: Any, world: int, end: float) -> Life:
    life = Life(uuid.uuid4().hex, store.add(f"{ROOT}/number", 1))
    store.set(f"{ROOT}/now", json.dumps(life))
    keys = [f"{ROOT}/{life.name}/{rank}" for rank in range(1, world)]
    while keys and not store.check(keys):
        _wait(end, "not all ranks came to this start of the run")
    store.set(f"{ROOT}/{life.name}/go", json.dumps([store.get(key).decode() for key in keys]))
    return life


def _follow(store: Any, rank: int, end: float) -> Life:
    mine = uuid.uuid4().hex
    while True:
        if store.check([f"{ROOT}/now"]):
            life = Life(*json.loads(store.get(f"{ROOT}/now")))
            go = f"{ROOT}/{life.name}/go"
            # A life that has gone was another process's: its answer has another number.
            if store.check([go]):
                if mine in json.loads(store.get(go)):
                    return life
            else:
                store.set(f"{ROOT}/{life.name}/{rank}", mine)
        _wait(end, "rank 0 did not come to this start of the run")


def _wait(end: float, reason: str) -> None:
    if time.monotonic() > end:
        raise TimeoutError(reason)
    time.sleep(0.05)
