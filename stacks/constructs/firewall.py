"""The web firewall before the API: AWS's managed rules, a size limit, and rates by address.

Prompts look like attacks: a ticket quotes a script, a path, a stack trace. So the managed rules that read bodies only
count and label; a rule of our own blocks what carries such a label on any route that takes no prose. Their limit of
8 KB for bodies gives way to 64 KB, which is also all that WAF looks into: `OversizeHandling: MATCH` makes "too large to
look into" mean "too large". A rule name that AWS retires is ignored in an override, so the lists can't break a deploy.
"""

from aws_cdk import ArnFormat, Aws, Fn, RemovalPolicy, Stack
from aws_cdk import aws_logs as logs
from aws_cdk import aws_wafv2 as waf
from constructs import Construct

from stacks.config import Stage
from stacks.constructs.log_protection import protection
from stacks.constructs.problems import TOO_LARGE, TOO_MANY, Problem

MAX_BODY_BYTES = 65_536
WINDOW_S = 300
BODY_RULES = {
    "AWSManagedRulesCommonRuleSet": (
        "SizeRestrictions_BODY",
        "CrossSiteScripting_BODY",
        "EC2MetaDataSSRF_BODY",
        "GenericLFI_BODY",
        "GenericRFI_BODY",
    ),
    "AWSManagedRulesKnownBadInputsRuleSet": ("JavaDeserializationRCE_BODY", "Log4JRCE_BODY", "ReactJSRCE_BODY"),
    "AWSManagedRulesAmazonIpReputationList": (),
}
"""The managed groups in use, with those of their rules that read bodies."""
ATTACK_LABELS = (
    "awswaf:managed:aws:core-rule-set:CrossSiteScripting_Body",
    "awswaf:managed:aws:core-rule-set:EC2MetaDataSSRF_Body",
    "awswaf:managed:aws:core-rule-set:GenericLFI_Body",
    "awswaf:managed:aws:core-rule-set:GenericRFI_Body",
    "awswaf:managed:aws:known-bad-inputs:JavaDeserializationRCE_Body",
    "awswaf:managed:aws:known-bad-inputs:Log4JRCE_Body",
    "awswaf:managed:aws:known-bad-inputs:ReactJSRCE_Body",
)

Acl = waf.CfnWebACL
Statement = Acl.StatementProperty
AS_IS = [Acl.TextTransformationProperty(priority=0, type="NONE")]


class Firewall(Construct):
    """The WebACL, its place before an API's stage, and its log."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, api_stage_arn: str) -> None:
        super().__init__(scope, construct_id)
        self.acl = Acl(
            self,
            "Acl",
            name=stage.resource_name("firewall"),
            description=f"Keepgate {stage.name}: before the run API",
            scope="REGIONAL",
            default_action=Acl.DefaultActionProperty(allow={}),
            visibility_config=_visible("all"),
            association_config=Acl.AssociationConfigProperty(
                request_body={"API_GATEWAY": {"defaultSizeInspectionLimit": "KB_64"}}
            ),
            custom_response_bodies={
                problem.code: Acl.CustomResponseBodyProperty(content=problem.to_json(), content_type="APPLICATION_JSON")
                for problem in (TOO_LARGE, TOO_MANY)
            },
            rules=_rules(stage),
        )
        waf.CfnWebACLAssociation(self, "BeforeApi", resource_arn=api_stage_arn, web_acl_arn=self.acl.attr_arn)
        self._log(stage)

    def _log(self, stage: Stage) -> None:
        # WAF takes only names that begin so. The stack's own id in it: a log that outlives its stack keeps its name.
        own = Fn.select(2, Fn.split("/", Aws.STACK_ID))
        name = f"aws-waf-logs-{stage.resource_name('firewall')}-{own}"
        logs.LogGroup(
            self,
            "Log",
            log_group_name=name,
            data_protection_policy=protection(),
            retention=logs.RetentionDays[stage.log_retention],
            removal_policy=RemovalPolicy.RETAIN if stage.keeps_data else RemovalPolicy.DESTROY,
        )
        # Not the log group's own attribute, whose `:*` at the end WAF refuses.
        arn = Stack.of(self).format_arn(
            service="logs", resource="log-group", resource_name=name, arn_format=ArnFormat.COLON_RESOURCE_NAME
        )
        field = waf.CfnLoggingConfiguration.FieldToMatchProperty
        configuration = waf.CfnLoggingConfiguration(
            self,
            "Logging",
            resource_arn=self.acl.attr_arn,
            log_destination_configs=[arn],
            redacted_fields=[
                field(single_header={"Name": "authorization"}),
                field(single_header={"Name": "cookie"}),
                field(query_string={}),
            ],
        )
        configuration.node.add_dependency(self.node.find_child("Log"))


def _rules(stage: Stage) -> list[Acl.RuleProperty]:
    """Return the rules in the order they are asked; the managed groups come before the rule that reads their labels."""
    prose = _any(
        _all(_method("POST"), _path("EXACTLY", "/v1/runs")),
        _path("ENDS_WITH", "/feedback"),
        _path("STARTS_WITH", "/v1/approvals/"),
    )
    attack = _any(*(_labelled(label) for label in ATTACK_LABELS))
    reconnect = _all(_method("GET"), _path("ENDS_WITH", "/events"))
    return [
        _rule(0, "body-too-large", _body_over(MAX_BODY_BYTES), block=_answer(TOO_LARGE)),
        _rule(1, "rate-by-address", _rate(stage.requests_per_ip, _not(reconnect)), block=_answer(TOO_MANY)),
        _rule(2, "reconnects-by-address", _rate(stage.reconnects_per_ip, reconnect), block=_answer(TOO_MANY)),
        *(_managed(priority, group) for priority, group in enumerate(BODY_RULES, start=3)),
        _rule(3 + len(BODY_RULES), "attack-in-body", _all(attack, _not(prose)), block=Acl.BlockActionProperty()),
    ]


def _rule(priority: int, name: str, statement: Statement, *, block: Acl.BlockActionProperty) -> Acl.RuleProperty:
    action = Acl.RuleActionProperty(block=block)
    return Acl.RuleProperty(
        name=name, priority=priority, statement=statement, action=action, visibility_config=_visible(name)
    )


def _managed(priority: int, group: str) -> Acl.RuleProperty:
    only_count = Acl.RuleActionProperty(count={})
    overrides = [Acl.RuleActionOverrideProperty(name=name, action_to_use=only_count) for name in BODY_RULES[group]]
    return Acl.RuleProperty(
        name=group,
        priority=priority,
        override_action=Acl.OverrideActionProperty(none={}),
        visibility_config=_visible(group),
        statement=Statement(
            managed_rule_group_statement=Acl.ManagedRuleGroupStatementProperty(
                vendor_name="AWS", name=group, rule_action_overrides=overrides or None
            )
        ),
    )


def _answer(problem: Problem) -> Acl.BlockActionProperty:
    """Block with a problem document. WAF lets nobody set its content type, so it goes out as application/json.

    Without CORS headers, for which WAF knows no conditions: a page of another origin sees that the call failed.
    """
    headers = [Acl.CustomHTTPHeaderProperty(name=name, value=value) for name, value in problem.headers().items()]
    response = Acl.CustomResponseProperty(
        response_code=problem.status, custom_response_body_key=problem.code, response_headers=headers
    )
    return Acl.BlockActionProperty(custom_response=response)


def _visible(metric: str) -> Acl.VisibilityConfigProperty:
    """Count in CloudWatch, but keep no samples: they hold whole requests, tokens included."""
    return Acl.VisibilityConfigProperty(
        cloud_watch_metrics_enabled=True, sampled_requests_enabled=False, metric_name=metric
    )


def _rate(limit: int, of: Statement) -> Statement:
    rate = Acl.RateBasedStatementProperty(
        aggregate_key_type="IP", limit=limit, evaluation_window_sec=WINDOW_S, scope_down_statement=of
    )
    return Statement(rate_based_statement=rate)


def _body_over(size: int) -> Statement:
    body = Acl.FieldToMatchProperty(body=Acl.BodyProperty(oversize_handling="MATCH"))
    constraint = Acl.SizeConstraintStatementProperty(
        comparison_operator="GT", size=size, field_to_match=body, text_transformations=AS_IS
    )
    return Statement(size_constraint_statement=constraint)


def _path(position: str, text: str) -> Statement:
    return _bytes(Acl.FieldToMatchProperty(uri_path={}), position, text)


def _method(verb: str) -> Statement:
    return _bytes(Acl.FieldToMatchProperty(method={}), "EXACTLY", verb)


def _bytes(field: Acl.FieldToMatchProperty, position: str, text: str) -> Statement:
    match = Acl.ByteMatchStatementProperty(
        field_to_match=field, positional_constraint=position, search_string=text, text_transformations=AS_IS
    )
    return Statement(byte_match_statement=match)


def _labelled(label: str) -> Statement:
    return Statement(label_match_statement=Acl.LabelMatchStatementProperty(scope="LABEL", key=label))


def _all(*statements: Statement) -> Statement:
    return Statement(and_statement=Acl.AndStatementProperty(statements=list(statements)))


def _any(*statements: Statement) -> Statement:
    return Statement(or_statement=Acl.OrStatementProperty(statements=list(statements)))


def _not(statement: Statement) -> Statement:
    return Statement(not_statement=Acl.NotStatementProperty(statement=statement))
