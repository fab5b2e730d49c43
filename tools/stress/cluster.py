"""A stress run split over the workers of a Dask cluster; needs the extra ``polynix[cluster]`` here and polynix on every worker's machine."""

from __future__ import annotations

import time
from typing import Any

from polynix.tools.report.page import ReportError
from polynix.tools.stress.plan import StressPlan
from polynix.tools.stress.run import StressRun, merge

MISSING = "--cluster needs Dask distributed: pip install 'polynix[cluster]'"
SCHEDULER_SECONDS = 10.0
GRACE_SECONDS = 180.0  # beyond the plan's own time, for starting and ending


def run_part(plan: StressPlan) -> dict[str, Any]:
    """One machine's share; runs on a worker of the cluster."""
    return StressRun(plan).run()


def shares(containers: int, workers: int) -> list[int]:
    """How many containers each worker gets, as evenly as it goes; none of them nothing."""
    used = min(containers, workers)
    return [containers // used + (index < containers % used) for index in range(used)]


def run_on_cluster(plan: StressPlan, address: str) -> dict[str, Any]:
    """The whole run, merged. Errors: ReportError when there is no such cluster, or a part of it failed."""
    try:
        from distributed import Client, TimeoutError
    except ImportError as error:
        raise ReportError(MISSING) from error
    try:
        client = Client(address, timeout=SCHEDULER_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ReportError(f"no Dask scheduler at {address}: {_first_line(error)}") from error
    with client:
        workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
        if not workers:
            raise ReportError(f"the cluster at {address} has no workers")
        futures, first = [], 0
        for worker, count in zip(workers, shares(plan.containers, len(workers)), strict=False):
            futures.append(client.submit(run_part, plan.part(first, count), workers=[worker], allow_other_workers=False, pure=False, retries=0))
            first += count
        deadline = time.monotonic() + plan.seconds + plan.ramp_seconds + GRACE_SECONDS
        try:
            return merge(plan, [future.result(timeout=max(deadline - time.monotonic(), 1)) for future in futures])
        except KeyboardInterrupt:
            client.cancel(futures, force=True)
            raise
        except Exception as error:
            raise ReportError(f"a part of the run failed: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
