"""What a Bedrock guardrail says it found, read out of a stream's trace: kinds alone, for it quotes the text, too."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_KINDS = 20

_NAMED = {
    "topicPolicy": ("topics", "name"),
    "contentPolicy": ("filters", "type"),
    "contextualGroundingPolicy": ("filters", "type"),
}
_TYPED = (
    ("wordPolicy", "customWords", ""),
    ("wordPolicy", "managedWordLists", "type"),
    ("sensitiveInformationPolicy", "piiEntities", "type"),
    ("sensitiveInformationPolicy", "regexes", "name"),
)


def kinds_of(trace: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what was blocked, such as `input topic:legal_advice` or `output content:violence`, each once."""
    guardrail = trace.get("guardrail") or {}
    found: dict[str, None] = {}
    for assessment in (guardrail.get("inputAssessment") or {}).values():
        found |= dict.fromkeys(f"input {kind}" for kind in _blocked(assessment))
    for assessments in (guardrail.get("outputAssessments") or {}).values():
        for assessment in assessments:
            found |= dict.fromkeys(f"output {kind}" for kind in _blocked(assessment))
    return tuple(found)[:MAX_KINDS]


def _blocked(assessment: Mapping[str, Any]) -> Iterator[str]:
    places = [(policy, *where) for policy, where in _NAMED.items()] + list(_TYPED)
    for policy, members, name in places:
        for member in (assessment.get(policy) or {}).get(members) or ():
            if member.get("action") == "BLOCKED":
                # A topic's or expression's name is whoever configured it wrote; `match` is the user's or the model's.
                told = re.sub(r"[^a-z0-9]+", "_", str(member.get(name, "")).lower()).strip("_")[:60]
                yield f"{policy.removesuffix('Policy')}:{told}" if told else policy.removesuffix("Policy")
