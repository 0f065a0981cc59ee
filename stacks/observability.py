"""What an operator sees first: one dashboard, the alarms, and how many requests X-Ray samples.

An alarm stands only where somebody should act. The log groups belong to their functions: here they would tie the
stacks into a cycle. Functions are named, not referred to: a reference is an export, and CloudFormation replaces no
function whose name another stack imports.
"""

from collections.abc import Sequence

from aws_cdk import Duration
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_xray as xray
from constructs import Construct

from agent.endings import EndReason
from stacks.agent import AgentStack
from stacks.config import Stage
from stacks.constructs.room_function import RoomFunction
from stacks.constructs.run_api import API_STAGE
from stacks.edge import EdgeStack
from stacks.stage_stack import StageStack
from stacks.state import StateStack

PERIOD = Duration.minutes(5)
QUEUE_PATIENCE = Duration.minutes(10)
"""How old the oldest tool job may get: about the longest that a run waits for one."""
Missing = cloudwatch.TreatMissingData
ENDS_TO_LOOK_INTO = {
    "platform-budget-spent": (
        EndReason.BUDGET_PLATFORM,
        "The platform's budget of this month is spent, so all runs end: raise the limit, or find who spends.",
    ),
    "runs-failing": (EndReason.INTERNAL_ERROR, "Runs end with internal_error: read run_agent's log."),
    "models-unavailable": (
        EndReason.MODEL_UNAVAILABLE,
        "Neither a release's model nor its fallback answers: look at Bedrock's quotas, model access, status.",
    ),
    "policies-unavailable": (EndReason.POLICY_UNAVAILABLE, "No call can be decided: read run_agent's log."),
    "releases-unavailable": (
        EndReason.RELEASE_UNAVAILABLE,
        "Runs are bound to a release that run_agent can't use: deploy its file, tools and prices again.",
    ),
}
"""By alarm: the ends of runs that are nobody's but the platform's to mend."""


class ObservabilityStack(StageStack):
    """Dashboard, alarms, sampling."""

    def __init__(
        self, scope: Construct, stage: Stage, *, state: StateStack, agent: AgentStack, edge: EdgeStack
    ) -> None:
        super().__init__(scope, "Observability", stage)
        self._functions = [*edge.functions, *agent.functions]
        self._api = edge.run_api.api
        self._queue, self._dead_letters = agent.queue, agent.dead_letters
        self._sample(stage)
        self._dashboard(stage)
        if stage.alarms:
            self._alarms(stage, state.key, agent=agent.run_agent, sweeper=agent.sweep_runs)

    def _sample(self, stage: Stage) -> None:
        """Sample by a rule of our own: X-Ray's default, one a second and 5 %, would drop most runs."""
        xray.CfnSamplingRule(
            self,
            "Sampling",
            sampling_rule=xray.CfnSamplingRule.SamplingRuleProperty(
                rule_name=stage.resource_name("requests"),
                priority=100,
                service_type="AWS::ApiGateway::Stage",  # it begins a trace and decides for all that follows
                service_name=f"{self._api.rest_api_name}/{API_STAGE}",
                http_method="*",
                host="*",
                url_path="*",
                resource_arn="*",
                reservoir_size=1,
                fixed_rate=stage.trace_share,
                version=1,
            ),
        )

    def _dashboard(self, stage: Stage) -> None:
        api, queue = self._api, self._queue
        refused = api.metric_client_error(period=PERIOD, statistic="Sum")
        running = queue.metric_approximate_number_of_messages_not_visible(period=PERIOD)
        cloudwatch.Dashboard(
            self,
            "Dashboard",
            dashboard_name=stage.resource_name("overview"),
            default_interval=Duration.hours(3),
            widgets=[
                [
                    _graph("Requests", api.metric_count(period=PERIOD)),
                    _graph("Refused and failed", refused, _server_errors(api)),
                ],
                [
                    _graph("Function errors", *_by_door(self._functions, "Errors")),
                    _graph("Function throttles", *_by_door(self._functions, "Throttles")),
                ],
                [
                    _graph("Runs ended, by reason", _ended(stage, "RunsEnded")),
                    _graph("Micro-dollars spent by ended runs, by reason", _ended(stage, "CostMicros")),
                ],
                [
                    _graph("Longest invocation, ms", *_by_door(self._functions, "Duration", "Maximum")),
                    _graph("Tool jobs", _depth(queue), running, _depth(self._dead_letters)),
                ],
            ],
        )

    def _alarms(self, stage: Stage, key: kms.IKey, *, agent: RoomFunction, sweeper: RoomFunction) -> None:
        topic = sns.Topic(self, "Alarms", display_name=f"Keepgate {stage.name}", master_key=key, enforce_ssl=True)
        # The policy that demands TLS replaces SNS's own, which would have let this account's alarms in.
        topic.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[topic.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": self.account}},
            )
        )
        if stage.alarm_email:
            topic.add_subscription(subscriptions.EmailSubscription(stage.alarm_email))
        tell = actions.SnsAction(topic)

        def alarm(name: str, says: str, metric: cloudwatch.IMetric, over: float, *, periods: int = 1) -> None:
            cloudwatch.Alarm(
                self,
                f"Alarm-{name}",
                alarm_name=stage.resource_name(name),
                alarm_description=says,
                metric=metric,
                threshold=over,
                evaluation_periods=periods,
                comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
                treat_missing_data=Missing.NOT_BREACHING,
            ).add_alarm_action(tell)

        for function in self._functions:
            says = f"{function.door} raises, times out or is killed: read its log group."
            alarm(f"{function.door}-errors", says, _of(function, "Errors"), 0)
            says = f"{function.door} is refused: raise the account's concurrency, or lower the API's rates."
            alarm(f"{function.door}-throttles", says, _of(function, "Throttles"), 0)
        alarm(
            "dead-letters",
            "A tool job was delivered in vain too often: read the message, then the worker's log.",
            _depth(self._dead_letters),
            0,
        )
        alarm(
            "tool-jobs-late",
            "Tool jobs wait longer than runs do: raise queue_concurrency, or look for a slow tool.",
            self._queue.metric_approximate_age_of_oldest_message(period=PERIOD),
            QUEUE_PATIENCE.to_seconds(),
        )
        for name, (reason, says) in ENDS_TO_LOOK_INTO.items():
            alarm(name, says, _runs_ended(stage, reason), 0)
        alarm(
            "deaths-untold",
            "The sweeper isn't told of dead invocations, so runs wait for their leases: run_agent may not invoke it.",
            _of(agent, "DestinationDeliveryFailures"),
            0,
        )
        alarm(
            "tools-changed",
            "A server's tool is no longer what was reviewed and is refused: read run_tool's log, then docs/mcp.md.",
            _tools_changed(stage),
            0,
        )
        alarm("server-errors", "The API answers 5xx: read the shim's log.", _server_errors(self._api), 0, periods=2)
        cloudwatch.Alarm(
            self,
            "Alarm-sweeper-silent",
            alarm_name=stage.resource_name("sweeper-silent"),
            alarm_description="The sweeper doesn't run each minute: lost runs stay lost. Look at its schedule.",
            metric=_of(sweeper, "Invocations"),
            threshold=1,
            evaluation_periods=2,
            comparison_operator=cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
            treat_missing_data=Missing.BREACHING,
        ).add_alarm_action(tell)


def _graph(title: str, *metrics: cloudwatch.IMetric) -> cloudwatch.GraphWidget:
    return cloudwatch.GraphWidget(title=title, left=list(metrics), width=12)


def _of(function: RoomFunction, metric: str, statistic: str = "Sum") -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace="AWS/Lambda",
        metric_name=metric,
        dimensions_map={"FunctionName": function.name},
        period=PERIOD,
        statistic=statistic,
    )


def _by_door(functions: Sequence[RoomFunction], metric: str, statistic: str = "Sum") -> list[cloudwatch.Metric]:
    return [_of(function, metric, statistic).with_(label=function.door) for function in functions]


def _depth(queue: sqs.IQueue) -> cloudwatch.Metric:
    return queue.metric_approximate_number_of_messages_visible(period=PERIOD, statistic="Maximum")


def _server_errors(api: apigateway.RestApi) -> cloudwatch.Metric:
    return api.metric_server_error(period=PERIOD, statistic="Sum")


def _runs_ended(stage: Stage, reason: EndReason) -> cloudwatch.Metric:
    """Return how many runs the agent ended for `reason`; see `lambdas.telemetry`."""
    dimensions = {"service": "run_agent", "stage": stage.name, "reason": str(reason)}
    return cloudwatch.Metric(
        namespace="Keepgate", metric_name="RunsEnded", dimensions_map=dimensions, period=PERIOD, statistic="Sum"
    )


def _tools_changed(stage: Stage) -> cloudwatch.Metric:
    """Return how many calls were refused because a server's tool has changed; see `lambdas.telemetry`."""
    dimensions = {"service": "run_tool", "stage": stage.name}
    return cloudwatch.Metric(
        namespace="Keepgate", metric_name="ToolsChanged", dimensions_map=dimensions, period=PERIOD, statistic="Sum"
    )


def _ended(stage: Stage, metric: str) -> cloudwatch.MathExpression:
    search = f'{{Keepgate,reason,service,stage}} MetricName="{metric}" stage="{stage.name}"'
    return cloudwatch.MathExpression(expression=f"SEARCH('{search}', 'Sum')", using_metrics={}, label="", period=PERIOD)
