"""Every error Keepgate raises, sorted by who must act. It stands at the bottom of the import chain.

`CallerMistake`: whoever called must change the call (4xx). `TryLater`: nothing is wrong with the call (429, 503).
`RunFailed`: this run ends, with a reason from the closed list. `LogMoved` is none of the three: the world changed
under a writer, who reloads and decides again.
"""

import traceback
from typing import Any, ClassVar


class KeepgateError(Exception):
    """The root of the tree. `code` is stable and public; the message is a sentence that names the remedy."""

    code: ClassVar[str] = "internal_error"


class CallerMistake(KeepgateError):
    """The caller must change the call. `status` is the HTTP status of the problem document."""

    code = "bad_request"
    status: ClassVar[int] = 400

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        """The path of the offending field (`body.metadata.key`), where there is one."""


class InputInvalid(CallerMistake):
    """A field has the wrong type, shape, charset or depth, or is unknown."""

    code = "invalid_input"


class InputTooLarge(CallerMistake):
    """The body, or one of its fields, has more bytes than allowed."""

    code = "too_large"
    status = 413


class MediaTypeUnsupported(CallerMistake):
    """The body is not JSON, or says it is something else."""

    code = "unsupported_media_type"
    status = 415


class NotAuthenticated(CallerMistake):
    """The token's claims don't make a principal."""

    code = "not_authenticated"
    status = 401


class RoleMissing(CallerMistake):
    """The principal is known and lacks the role this needs."""

    code = "role_missing"
    status = 403


class NotFound(CallerMistake):
    """There is no such thing for this principal: missing and foreign are the same answer."""

    code = "not_found"
    status = 404


class Conflict(CallerMistake):
    """The state the call needs is not the state there is. See `code` of the subclasses."""

    code = "conflict"
    status = 409


class IdempotencyKeyReused(Conflict):
    """The same `Idempotency-Key` came with another body."""

    code = "idempotency_key_reused"


class RunNotOver(Conflict):
    """The run has no result yet."""

    code = "run_not_over"


class RunOver(Conflict):
    """The run has ended; nothing can be asked of it any more."""

    code = "run_over"


class OwnRun(CallerMistake):
    """The principal asked for what they mean to decide."""

    code = "own_run"
    status = 403


class UserSwitchedOff(CallerMistake):
    """Operators have switched this user off."""

    code = "user_switched_off"
    status = 403


class AlreadyDecided(Conflict):
    """An approval was decided before; it is decided once."""

    code = "already_decided"


class ApprovalExpired(Conflict):
    """An approval's time is over; the call has been given up."""

    code = "approval_expired"


class FeedbackStands(Conflict):
    """The run has been judged already; a judgement is given once."""

    code = "feedback_stands"


class SessionBusy(Conflict):
    """An earlier run of the session is not over, and the release takes one at a time."""

    code = "session_busy"


class CallNotDecided(CallerMistake):
    """A tool call was asked for that the log does not show as allowed, started and still open."""

    code = "call_not_decided"
    status = 403


class TryLater(KeepgateError):
    """Nothing is wrong with the call; it may succeed after `retry_after_s` seconds."""

    code = "try_later"
    status: ClassVar[int] = 503

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyRuns(TryLater):
    """The user, or the tenant, has as many runs in flight as allowed."""

    code = "too_many_runs"
    status = 429


class SwitchedOff(TryLater):
    """Operators have switched off what this would begin; `retry_after_s` is when that ends at the latest."""

    code = "switched_off"


class LogContended(TryLater):
    """The run log could not be written within its bounded retries (conflicts or throttling)."""

    code = "log_contended"


class FactsUnavailable(TryLater):
    """What policy has to know of a resource can't be read: nothing is decided on a guess."""

    code = "facts_unavailable"


class StoreUnavailable(TryLater):
    """A table, bucket or function did not answer within its bounded retries."""

    code = "store_unavailable"


class LogMoved(KeepgateError):
    """Another writer appended first: reload the run and decide again."""

    code = "log_moved"


class ConfigurationInvalid(KeepgateError):
    """A release, price list, policy or setting is wrong; the message names the file and the field."""

    code = "configuration_invalid"


class HookFailed(KeepgateError):
    """A team's hook raised, or tried to loosen what it may only tighten: the answer is no."""

    code = "hook_failed"


class RunFailed(KeepgateError):
    """This run can't go on. `reason` is an `agent.events.EndReason` value."""

    code = "run_failed"

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


class ModelError(KeepgateError):
    """A model call failed. `retryable` says whether the same call may succeed later, `billed` whether it may cost."""

    code = "model_error"
    retryable: ClassVar[bool] = False
    billed: ClassVar[bool] = True


class ModelThrottled(ModelError):
    """The model's service asked to slow down."""

    code = "model_throttled"
    retryable = True
    billed = False


class ModelUnavailable(ModelError):
    """The model's service failed, or its stream broke off."""

    code = "model_unavailable"
    retryable = True


class ModelTimedOut(ModelError):
    """No end of the stream within the call's hard timeout."""

    code = "model_timed_out"
    retryable = True


class ModelRequestRejected(ModelError):
    """The service refuses this request (validation, access, unknown model): asking again won't help."""

    code = "model_request_rejected"
    billed = False


class ModelNotOffered(ModelError):
    """The service does not offer this model (retired, no access): another one may be."""

    code = "model_not_offered"
    billed = False


class ModelSwitchedOff(ModelError):
    """Operators switched the model off in the middle of the call."""

    code = "model_switched_off"


class ToolUnreached(KeepgateError):
    """The function that runs tools could not be called: the tool did certainly not begin."""

    code = "tool_unreached"


class JobPoisoned(KeepgateError):
    """A job of the queue was delivered in vain as often as it may be; its run was told, and it is a dead letter."""

    code = "job_poisoned"


class ToolLost(KeepgateError):
    """The function that ran a tool died or timed out: what the tool did is not known."""

    code = "tool_lost"


def describe(error: BaseException) -> dict[str, Any]:
    """Return what may be logged of an error: classes, the stable code, places; never its message."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 5:
        chain.append(cause)
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__name__,
        "code": error.code if isinstance(error, KeepgateError) else None,
        "causes": [type(cause).__name__ for cause in chain[1:]],
        "places": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-8:]],
    }
