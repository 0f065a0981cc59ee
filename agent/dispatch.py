"""From a tenant's line into the queue: as many jobs as it has slots, those that wait longest first.

Called by whoever made the line move: the holder that queued a call, the worker that ended one; and by the sweeper, for
what they could not do any more. Calling it any number of times, at any time, is harmless.
"""

from dataclasses import dataclass

from agent.ports.clock import Clock
from agent.ports.jobs import JobLines, ToolQueue
from agent.ports.limits import LimitBook


@dataclass(frozen=True)
class Dispatcher:
    """The lines, the queue, and how much of it a tenant may have."""

    lines: JobLines
    queue: ToolQueue
    limits: LimitBook
    clock: Clock

    def send(self, tenant_id: str) -> int:
        """Send what a tenant has slots for; return how many jobs.

        Raises:
            StoreUnavailable: not done; what has its slot is sent later, by somebody else.
        """
        slots = self.limits.of(tenant_id).tenant_jobs
        jobs = self.lines.take(tenant_id, slots=slots, at=self.clock.now())
        for job in jobs:
            self.queue.send(job.tenant_id, job.run_id, job.call_id, traceparent=job.traceparent)
            self.lines.sent(job)
        return len(jobs)
