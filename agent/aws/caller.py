"""Who invokes a function, as AWS says it: a request to STS that the caller signed and the function sends.

Lambda does not tell a function who invoked it, and what a caller writes about themselves proves nothing. So the caller
signs `sts:GetCallerIdentity` with their own credentials, over a header that holds the hash of the command and of the
function it is for. The function checks the form, puts in the hash of what it was really asked, and sends it to STS,
which answers with the ARN of whoever signed, or not at all. A proof is good for one command, one function, one minute.

What it proves is a principal of IAM. For an assumed role the session's name, which ends the ARN, is as trustworthy as
the role's trust policy makes it; CloudTrail's data events of the function are the second, independent record.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest

from agent.errors import NotAuthenticated, StoreUnavailable
from agent.ports.clock import Clock

BOUND = "x-keepgate-command"
QUERY = {"Action": "GetCallerIdentity", "Version": "2011-06-15"}
SIGNATURE = frozenset(
    {"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"}
)
TOKEN = "X-Amz-Security-Token"  # noqa: S105 - a parameter's name
VALID_S = 60
MAX_PROOF_CHARACTERS = 8_192
ARN = re.compile(r"<Arn>(arn:[a-z-]+:(?:iam|sts)::([0-9]{12}):[A-Za-z0-9_+=,.@/:-]{1,400})</Arn>")

Send = Callable[[str, Mapping[str, str]], tuple[int, str]]
"""Gets a URL with these headers and returns status and body.

Raises `StoreUnavailable` where there is no answer.
"""


def bound_to(function: str, command_json: str) -> str:
    """Return what a proof is signed over: that this function is to do this."""
    return hashlib.sha256(f"{function}\0{command_json}".encode()).hexdigest()


def prove(credentials: Any, *, sts_url: str, region: str, bound: str) -> str:  # noqa: ANN401 - botocore's, untyped
    """Return a proof of who holds the credentials, for one command: the query of a signed request."""
    request = AWSRequest("GET", f"{sts_url.rstrip('/')}/?{urlencode(QUERY)}", headers={BOUND: bound})
    SigV4QueryAuth(credentials, "sts", region, expires=VALID_S).add_auth(request)
    return str(urlsplit(request.url).query)


def require_caller(proof: str, *, bound: str, sts_url: str, account: str, clock: Clock, send: Send) -> str:
    """Return the ARN of whoever made a proof.

    Raises:
        NotAuthenticated: it is none, or one for something else, too old, or of another account.
        StoreUnavailable: STS does not answer.
    """
    query = _require_form(proof)
    _require_fresh(query["X-Amz-Date"], clock)
    status, body = send(f"{sts_url.rstrip('/')}/?{urlencode(query, quote_via=quote)}", {BOUND: bound})
    found = ARN.search(body) if status == 200 else None
    if found is None:
        raise NotAuthenticated("AWS does not vouch for whoever signed this command")
    if found[2] != account:
        raise NotAuthenticated("this is operated from its own account only")
    return found[1]


def _require_form(proof: str) -> dict[str, str]:
    """Return the parameters of a request that can be nothing but a signed `GetCallerIdentity` over our header."""
    if len(proof) > MAX_PROOF_CHARACTERS:
        raise NotAuthenticated("the proof is too long")
    pairs = parse_qsl(proof, keep_blank_values=True)
    query = dict(pairs)
    if len(pairs) != len(query) or set(query) - {TOKEN} != SIGNATURE | set(QUERY):
        raise NotAuthenticated("this is no signed request")
    if any(query[name] != value for name, value in QUERY.items()) or query["X-Amz-SignedHeaders"] != f"host;{BOUND}":
        raise NotAuthenticated("this signs something else")
    return query


def _require_fresh(date: str, clock: Clock) -> None:
    try:
        signed_at = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise NotAuthenticated("the proof has no date") from None
    if abs(clock.now() - signed_at) > timedelta(seconds=VALID_S):
        raise NotAuthenticated("the proof is too old; is the clock right?")


def get(url: str, headers: Mapping[str, str]) -> tuple[int, str]:
    """Send for real: see `Send`."""
    import urllib3

    try:
        answer = urllib3.request("GET", url, headers=headers, timeout=3.0, retries=False, redirect=False)
    except urllib3.exceptions.HTTPError as silent:
        raise StoreUnavailable("STS does not answer") from silent
    return answer.status, answer.data[:65_536].decode(errors="replace")
