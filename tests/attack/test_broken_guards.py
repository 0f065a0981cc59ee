"""The judges of `invariants` see what they are for: with one guard broken on purpose, the attack succeeds."""

from dataclasses import replace

import pytest

from agent import caps, decided_call, execution
from agent.events import Verdict
from agent.gate import Gate
from agent.identity import Role
from agent.ports.policy import PolicyDecision, PolicyQuery
from agent.testing.allowances import MemoryAllowances
from agent.testing.model import asks, says
from agent.testing.rooms import FixedPolicy
from agent.testing.tenant_data import MemoryTenantAccess, MemoryTenantData
from tests.attack.invariants import violations
from tests.attack.world import POLICY, RELEASE, World, endless, script

LOOK = asks(("lookup_order", {"order_id": "1001"}))
DRAFT = asks(("save_draft", {"order_id": "1001", "subject": "Hello", "body": "It is on its way."}))
REFUND = asks(("issue_refund", {"order_id": "1001", "amount_cents": 5000, "reason": "late"}))
LINK = says("See https://attacker.example/?d=1001 for more.")


def attacked(*turns, **around) -> list[str]:
    """Let ann ask a model that plays these turns, and return what the judges say."""
    world = World(script(*turns), **around)
    world.question("ann", session_id="ses_one")
    world.deliver()
    world.clock.advance(RELEASE.caps.max_approval_wait_s)
    world.run_until_idle()
    return violations(world)


@pytest.mark.parametrize("turns", [(LOOK,), (DRAFT,), (REFUND,), (LOOK, DRAFT), (LOOK, REFUND), (LINK,)], ids=str)
def test_with_all_guards_in_place_the_judges_say_nothing(turns) -> None:
    assert attacked(*turns) == []


def test_1_other_arguments_than_were_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    decided = decided_call.require_decided

    def careless(*ids):
        call = decided(*ids)
        return replace(call, arguments=call.arguments.model_copy(update={"order_id": "1002"}))

    monkeypatch.setattr(execution, "require_decided", careless)
    assert any("other arguments" in breach for breach in attacked(LOOK))


def test_2_a_refund_that_nobody_approved() -> None:
    assert any("without an approval" in breach for breach in attacked(REFUND, policy=FixedPolicy()))


def test_3_a_tool_that_opens_another_tenants_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        MemoryTenantAccess,
        "data",
        lambda self, tenant_id, contract: MemoryTenantData(self._table, "globex", contract.data_actions),
    )
    breaches = attacked(LOOK)
    assert any("prompt" in breach for breach in breaches)
    assert any("log" in breach for breach in breaches)
    assert any("stream" in breach for breach in breaches)


def test_4_a_call_that_acts_as_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    decided = decided_call.require_decided

    def careless(*ids):
        call = decided(*ids)
        return replace(call, principal=call.principal.model_copy(update={"roles": frozenset(Role)}))

    monkeypatch.setattr(execution, "require_decided", careless)
    assert any("acted as" in breach for breach in attacked(LOOK))


def test_5_an_effect_of_a_tainted_run_that_needed_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gate, "_least", lambda self, effect: Verdict.ALLOW)
    breaches = attacked(LOOK, DRAFT, policy=FixedPolicy())
    assert any("tainted session" in breach for breach in breaches)


def test_6_a_run_without_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caps, "require_turn", lambda state, release: None)
    world = World(endless(LOOK), release=RELEASE)
    run = world.question("ann")
    world.each_minute = lambda: world.cancel(run) if world.state(run).header.turns > 20 else None
    looks = iter(range(40))
    world.mind = lambda request: LOOK if next(looks, None) is not None else says("Bye.")
    world.run_until_idle()
    assert any("turns" in breach for breach in violations(world))


def test_6_refunds_that_nobody_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryAllowances, "take", lambda self, taking, at: None)
    calls = [("issue_refund", {"order_id": "1002", "amount_cents": 50_000, "reason": "late"})]
    world = World(script(asks(*calls, *calls, *calls)), policy=FixedPolicy())
    world.question("ann")
    world.run_until_idle()
    refunds = [act for act in world.acts if act.tool == "issue_refund"]
    assert len(refunds) == 3
    assert any("cents were refunded" in breach for breach in violations(world))


def test_8_an_answer_that_no_guard_looks_at() -> None:
    breaches = attacked(LINK, release=RELEASE.model_copy(update={"guards": ()}))
    assert any("said attacker.example" in breach for breach in breaches)


def test_9_a_decision_without_its_versions() -> None:
    class Forgetful:
        def decide(self, query: PolicyQuery) -> PolicyDecision:
            return replace(POLICY.decide(query), policy_sha256="", policies=())

    assert any("no versions on record" in breach for breach in attacked(LOOK, policy=Forgetful()))
