"""The tenants' lines of queued calls in memory: the twin of `agent.aws.job_lines.DynamoDbJobLines`."""

import threading
from datetime import datetime, timedelta

from agent.ports.jobs import JobLine, WaitingJob
from agent.testing.run_log import MemoryRunLog

LOOK_AGAIN = timedelta(seconds=60)
RESEND_AFTER = timedelta(seconds=10)


class MemoryJobLines:
    """`ports.JobLines`, read off a log in memory: a queued call without a result is in line or in a slot."""

    def __init__(self, log: MemoryRunLog) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._taken: dict[WaitingJob, datetime] = {}
        self._sent: set[WaitingJob] = set()
        self._looked: dict[str, datetime] = {}

    def take(self, tenant_id: str, *, slots: int, at: datetime) -> list[WaitingJob]:
        """See `ports.JobLines`."""
        with self._lock:
            jobs = self._jobs(tenant_id)
            waiting = [job for job in jobs if job not in self._taken]
            resent = [
                job
                for job in jobs
                if job in self._taken and job not in self._sent and self._taken[job] <= at - RESEND_AFTER
            ]
            taken = waiting[: max(0, slots - (len(jobs) - len(waiting)))]
            self._taken |= dict.fromkeys(taken, at)
            return [*resent, *taken]

    def sent(self, job: WaitingJob) -> None:
        """See `ports.JobLines`."""
        with self._lock:
            self._sent.add(job)

    def due_lines(self, now: datetime, *, limit: int) -> list[JobLine]:
        """See `ports.JobLines`."""
        with self._lock:
            lines = []
            for tenant_id in {header.tenant_id for header in self._log.open_runs()}:
                unsent = [job.since for job in self._jobs(tenant_id) if job not in self._sent]
                looked = self._looked.get(tenant_id)
                if unsent:
                    lines.append(JobLine(tenant_id, max(filter(None, [*unsent[-1:], looked])) + LOOK_AGAIN))
            return sorted((line for line in lines if line.due_at <= now), key=lambda line: line.due_at)[:limit]

    def looked_after(self, line: JobLine, *, at: datetime) -> None:
        """See `ports.JobLines`."""
        with self._lock:
            self._looked[line.tenant_id] = at

    def _jobs(self, tenant_id: str) -> list[WaitingJob]:
        """Return a tenant's queued calls without a result, those that wait longest first."""
        jobs = [
            WaitingJob(tenant_id, header.run_id, call_id, since, header.traceparent)
            for header in self._log.open_runs()
            if header.tenant_id == tenant_id
            for call_id, since in header.jobs.items()
        ]
        return sorted(jobs, key=lambda job: (job.since, job.run_id, job.call_id))
