"""Search the shop's own policy documents. Their text is untrusted: whoever edits the shop's pages writes it.

Ranking is BM25 over paragraphs: for a handful of documents it is exact, explainable and needs no index. It knows words,
not meanings: "money back" does not find "refund". A shop with thousands of pages takes a search service here.
"""

import math
import re
from collections import Counter

from pydantic import BaseModel, Field

from agent.contracts import Effect
from agent.tools import Arguments, ToolContext, tool

MAX_DOCUMENTS = 100
MAX_PASSAGES = 4
MAX_PASSAGE_CHARACTERS = 1500
# How fast repeated words stop counting, and how much long paragraphs lose: the values Robertson and Zaragoza give as
# good for general text (The Probabilistic Relevance Framework, 2009).
SATURATION, LENGTH_WEIGHT = 1.2, 0.75


class SearchPolicy(Arguments):
    """What to look for."""

    query: str = Field(min_length=2, max_length=200, description="A few words, such as 'return worn shoes'.")


class Passage(BaseModel):
    """A paragraph of a policy document."""

    document: str
    text: str


class Passages(BaseModel):
    """The best paragraphs, best first; empty where no word matches."""

    passages: list[Passage]


@tool(
    effect=Effect.READ,
    mode="idempotent",
    resource="PolicyLibrary::shop",
    data_actions=("dynamodb:Query",),
    max_rows=MAX_PASSAGES,
    next_page="Search again with other words.",
    allowances=("calls.user_minute", "calls.tenant_minute"),
)
def search_policy(args: SearchPolicy, context: ToolContext) -> Passages:
    """Search the shop's policies (returns, refunds, delivery, warranty, privacy) and return the best passages.

    Use it before saying what the shop does or allows. It matches words: try other words if nothing is found.
    """
    documents = context.data.query("policy", limit=MAX_DOCUMENTS)
    passages = [
        Passage(document=document["title"], text=paragraph.strip()[:MAX_PASSAGE_CHARACTERS])
        for document in documents
        for paragraph in document["text"].split("\n\n")
        if paragraph.strip()
    ]
    return Passages(passages=rank(args.query, passages)[:MAX_PASSAGES])


def rank(query: str, passages: list[Passage]) -> list[Passage]:
    """Return the passages that share a word with the query, by BM25, best first."""
    counted = [(passage, Counter(_words(f"{passage.document} {passage.text}"))) for passage in passages]
    mean_length = sum(counts.total() for _, counts in counted) / max(1, len(counted))
    scores: list[tuple[float, Passage]] = []
    having = Counter(word for _, counts in counted for word in counts)
    for passage, counts in counted:
        damping = SATURATION * (1 - LENGTH_WEIGHT + LENGTH_WEIGHT * counts.total() / max(1.0, mean_length))
        score = sum(
            math.log(1 + (len(counted) - having[word] + 0.5) / (having[word] + 0.5))
            * counts[word]
            * (SATURATION + 1)
            / (counts[word] + damping)
            for word in set(_words(query))
            if counts[word]
        )
        if score > 0:
            scores.append((score, passage))
    return [passage for _, passage in sorted(scores, key=lambda pair: pair[0], reverse=True)]


def _words(text: str) -> list[str]:
    # Without the plural's s, so that "returns" finds "return"; short words carry nothing and are left out.
    return [word.removesuffix("s") for word in re.findall(r"\w+", text.casefold()) if len(word) > 2]
