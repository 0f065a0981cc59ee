"""The Bedrock guardrail that the agent's model calls pass, by the stage's options.

It sees what the model reads and writes as text; not tool definitions, calls or results (Bedrock user guide, "Include a
guardrail with the Converse API"). The release's own guards see those, and everything else that must hold without AWS.
A change makes a new version, and functions are moved to it: a version never changes under a running agent, nor goes
from under it. Old ones stay until the guardrail goes; Bedrock keeps twenty.
"""

import hashlib
import json

from aws_cdk import RemovalPolicy
from aws_cdk import aws_bedrock as bedrock
from constructs import Construct

from stacks.config import Stage

HARMS = ("HATE", "INSULTS", "SEXUAL", "VIOLENCE", "MISCONDUCT")
SECRETS = ("AWS_ACCESS_KEY", "AWS_SECRET_KEY", "PASSWORD", "CREDIT_DEBIT_CARD_NUMBER", "CREDIT_DEBIT_CARD_CVV", "PIN")
REFUSAL = "This was held back by a rule of this service."


class ModelGuardrail(Construct):
    """A guardrail and the version of it that is in use."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage) -> None:
        super().__init__(scope, construct_id)
        strength, topics = stage.guardrail_strength, stage.denied_topics
        content = bedrock.CfnGuardrail.ContentFilterConfigProperty
        entity = bedrock.CfnGuardrail.PiiEntityConfigProperty
        topic = bedrock.CfnGuardrail.TopicConfigProperty
        guardrail = bedrock.CfnGuardrail(
            self,
            "Guardrail",
            name=stage.resource_name("model"),
            description=f"Keepgate {stage.name}: what run_agent's model calls pass",
            blocked_input_messaging=REFUSAL,
            blocked_outputs_messaging=REFUSAL,
            content_policy_config=bedrock.CfnGuardrail.ContentPolicyConfigProperty(
                filters_config=[
                    *(content(type=harm, input_strength=strength, output_strength=strength) for harm in HARMS),
                    # Bedrock takes no strength for it at the output.
                    content(type="PROMPT_ATTACK", input_strength=strength, output_strength="NONE"),
                ]
            ),
            sensitive_information_policy_config=bedrock.CfnGuardrail.SensitiveInformationPolicyConfigProperty(
                pii_entities_config=[entity(type=kind, action="BLOCK") for kind in SECRETS]
            ),
            topic_policy_config=bedrock.CfnGuardrail.TopicPolicyConfigProperty(
                topics_config=[
                    topic(name=denied.name, definition=denied.definition, examples=list(denied.examples), type="DENY")
                    for denied in topics
                ]
            )
            if topics
            else None,
        )
        settled = [strength, [[t.name, t.definition, *t.examples] for t in topics], HARMS, SECRETS, REFUSAL]
        digest = hashlib.sha256(json.dumps(settled).encode()).hexdigest()[:8]
        version = bedrock.CfnGuardrailVersion(
            self,
            f"Version{digest}",
            guardrail_identifier=guardrail.attr_guardrail_id,
            description=f"options {digest}",
        )
        # An invocation that began before the deployment goes on with the version it was told.
        version.apply_removal_policy(RemovalPolicy.RETAIN)
        self.arn = guardrail.attr_guardrail_arn
        self.guardrail_id = guardrail.attr_guardrail_id
        self.version = version.attr_version
