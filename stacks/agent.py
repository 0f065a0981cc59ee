"""Rooms 2 and 3: the agent, the tools, their queue, the sweeper, and who may call whom.

Read it from top to bottom like the diagram of DESIGN: run_agent may call the model, the log and the ledger, and no
tenant data; run_tool may assume the data role, and no model and no ledger.
"""

from aws_cdk import CfnOutput, Duration
from aws_cdk import aws_cognito as cognito
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as sources
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from lambdas.settings import RunAgentSettings, RunToolSettings, SweepRunsSettings, WorkToolQueueSettings
from stacks.bundling import Bundles
from stacks.config import Stage
from stacks.constructs.data_role import DATA, DataRole
from stacks.constructs.guardrail import ModelGuardrail
from stacks.constructs.locked_door import lock_door
from stacks.constructs.model_rights import allow_model
from stacks.constructs.operators_door import OperatorsDoor
from stacks.constructs.room_function import RoomFunction, function_arn, role_arn
from stacks.contracts import read_model_ids, read_rights
from stacks.findings import accept
from stacks.stage_stack import StageStack
from stacks.state import StateStack

AGENT_TIMEOUT = Duration.minutes(5)
WAKE_PATIENCE = Duration.minutes(2)
"""How long a wake-up may wait for a free function; the sweeper wakes the run again anyway."""
BURIAL_PATIENCE = AGENT_TIMEOUT
"""How long the sweeper may be behind: by then the lease of a dead holder is over, and the schedule has come by."""
WAKERS = ("shim", "run_agent", "work_tool_queue", "sweep_runs")
"""Who wakes the agent; itself, when its lease ends before the run."""
MAX_RECEIVES = 4
"""Deliveries of a tool job: three to do it, one to tell its run that nobody will."""
WHO_PEOPLE_ARE = ("cognito-idp:AdminGetUser", "cognito-idp:AdminListGroupsForUser", "cognito-idp:ListUsers")
"""Before an approved call starts, requester and approver are asked for again: see `agent.aws.directory`."""
MARGIN_S = 15
"""Between the timeouts of those who wait for each other: the inner one ends first and can still answer."""


class AgentStack(StageStack):
    """The functions behind the people's room."""

    def __init__(
        self, scope: Construct, stage: Stage, *, state: StateStack, pool: cognito.IUserPool, bundles: Bundles
    ) -> None:
        super().__init__(scope, "Agent", stage)
        self._stage, self._state, self._pool = stage, state, pool
        self._code = lambda_.Code.from_asset(str(bundles.doors))
        self._tools_code = lambda_.Code.from_asset(str(bundles.tools))
        rights = read_rights(stage.agent)
        tool_timeout = Duration.seconds(rights.longest_s + MARGIN_S)
        worker_timeout = Duration.seconds(rights.longest_s + 2 * MARGIN_S)

        self.dead_letters = sqs.Queue(
            self,
            "ToolDeadLetters",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=Duration.days(14),
        )
        accept(self.dead_letters, "It is the end of the line: an alarm calls a person.", "Serverless-SQSRedrivePolicy")
        self.queue = sqs.Queue(
            self,
            "ToolJobs",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            # Not Lambda's six times its timeout: a dead worker's job must come again while its run still waits for it.
            # The price: a queue that is throttled for a quarter of an hour makes dead letters of jobs nobody began.
            visibility_timeout=Duration.seconds(rights.longest_s + 3 * MARGIN_S),
            retention_period=Duration.days(1),
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead_letters, max_receive_count=MAX_RECEIVES),
        )

        self.run_agent = self._run_agent(lambda_.Code.from_asset(str(bundles.agent)))
        self.run_tool = self._run_tool(tool_timeout)
        self.work_tool_queue = self._work_tool_queue(worker_timeout)
        self.sweep_runs = self._sweep_runs()
        self.operators = OperatorsDoor(self, "Operators", stage=stage, state=state, code=self._code)
        self.functions = [
            *(self.run_agent, self.run_tool, self.work_tool_queue, self.sweep_runs),
            self.operators.administer,
        ]

        data = DataRole(
            self,
            "TenantData",
            stage=stage,
            rights=rights,
            state=state,
            assumed_by=self.run_tool.role,
        )
        self.run_tool.may(["sts:AssumeRole", "sts:TagSession"], [data.role.role_arn])

        self._connect()
        self._outputs(data)

    def _run_agent(self, code: lambda_.Code) -> RoomFunction:
        stage, state = self._stage, self._state
        guardrail = ModelGuardrail(self, "Guardrail", stage=stage) if stage.guardrail_strength else None
        function = RoomFunction(
            self,
            "RunAgent",
            stage=stage,
            code=code,
            timeout=AGENT_TIMEOUT,
            memory_mb=1024,
            in_wake_cycle=True,
            if_lost="Its on-failure destination, the sweeper, hears of it at once and wakes the run.",
            settings=RunAgentSettings(
                stage=stage.name,
                service="run_agent",
                trace_exporter=stage.trace_exporter,
                runs_table=state.runs.table_name,
                ledger_table=state.ledger.table_name,
                **stage.breaker_rules(),
                agent_function=stage.resource_name("run_agent"),
                tool_function=stage.function_name("run_tool"),
                isolates_tenants=stage.isolates_tenants,
                tool_queue_url=self.queue.queue_url,
                user_pool_id=self._pool.user_pool_id,
                **stage.limits(state.control.table_name),
                platform_shards=stage.platform_shards,
                guardrail_id=guardrail.guardrail_id if guardrail else "",
                guardrail_version=guardrail.version if guardrail else "",
            ),
        )
        if guardrail:
            function.may(["bedrock:ApplyGuardrail"], [guardrail.arn])
        function.may_use(state.runs, ["GetItem", "BatchGetItem", "Query", "PutItem"])
        function.may_use(state.ledger, ["BatchGetItem", "Query", "PutItem", "UpdateItem"])
        self._may_move_lines(function)
        function.may_use(state.control, ["GetItem", "UpdateItem"], leading_keys=("BREAKER#*",))
        function.may(WHO_PEOPLE_ARE, [self._pool.user_pool_arn])
        for model_id in read_model_ids(stage.agent):
            allow_model(function, model_id)
        return function

    def _run_tool(self, timeout: Duration) -> RoomFunction:
        stage, state = self._stage, self._state
        function = RoomFunction(
            self,
            "RunTool",
            stage=stage,
            code=self._tools_code,
            timeout=timeout,
            by_tenant=stage.isolates_tenants,
            if_lost="Whoever called it waits for the answer, and records the call as lost.",
            settings=RunToolSettings(
                stage=stage.name,
                service="run_tool",
                trace_exporter=stage.trace_exporter,
                runs_table=state.runs.table_name,
                tenant_table=state.tenant_data.table_name,
                bucket=state.files.bucket_name,
                data_role_arn=role_arn(self, stage, DATA),
                progress_table=state.progress.table_name,
                secrets_prefix=stage.secrets_prefix,
                control_table=state.control.table_name,
                tool_servers=stage.tool_servers if stage.emulated else "",
            ),
        )
        # What it has seen change at a server outside it stops for all.
        function.may_use(state.control, ["GetItem", "PutItem"], leading_keys=("STOPPED#*",))
        function.may_use(state.progress, ["PutItem"])
        function.may_use(state.runs, ["GetItem", "Query"])
        return function

    def _work_tool_queue(self, timeout: Duration) -> RoomFunction:
        stage, state = self._stage, self._state
        function = RoomFunction(
            self,
            "WorkToolQueue",
            stage=stage,
            code=self._code,
            timeout=timeout,
            in_wake_cycle=True,
            if_lost="SQS delivers the job again; the last delivery tells the run, then it is a dead letter.",
            settings=WorkToolQueueSettings(
                stage=stage.name,
                service="work_tool_queue",
                trace_exporter=stage.trace_exporter,
                runs_table=state.runs.table_name,
                tool_queue_url=self.queue.queue_url,
                progress_table=state.progress.table_name,
                max_receives=MAX_RECEIVES,
                **stage.breaker_rules(),
                tool_function=stage.function_name("run_tool"),
                isolates_tenants=stage.isolates_tenants,
                agent_function=stage.resource_name("run_agent"),
                **stage.limits(state.control.table_name),
            ),
        )
        function.may_use(state.runs, ["GetItem", "Query", "PutItem"])
        self._may_move_lines(function)
        function.may_use(state.control, ["GetItem", "UpdateItem"], leading_keys=("BREAKER#*",))
        function.may_use(state.progress, ["Query"])
        jobs = sources.SqsEventSource(
            self.queue, batch_size=1, report_batch_item_failures=True, max_concurrency=stage.queue_concurrency
        )
        function.function.add_event_source(jobs)
        accept(
            function.function,
            "The queue has its own dead-letter queue.",
            "Serverless-LambdaEventSourceMappingDestination",
        )
        return function

    def _sweep_runs(self) -> RoomFunction:
        stage, state = self._stage, self._state
        function = RoomFunction(
            self,
            "SweepRuns",
            stage=stage,
            code=self._code,
            timeout=Duration.seconds(50),
            in_wake_cycle=True,
            if_lost="The next one, a minute later, finds the same runs due.",
            settings=SweepRunsSettings(
                stage=stage.name,
                service="sweep_runs",
                trace_exporter=stage.trace_exporter,
                runs_table=state.runs.table_name,
                ledger_table=state.ledger.table_name,
                agent_function=stage.resource_name("run_agent"),
                tool_queue_url=self.queue.queue_url,
                **stage.limits(state.control.table_name),
                platform_shards=stage.platform_shards,
            ),
        )
        function.may_use(
            state.runs,
            ["GetItem", "BatchGetItem", "Query", "PutItem"],
            indexes=["by_due"],
        )
        function.may_use(state.ledger, ["Query", "PutItem", "UpdateItem"])
        self._may_move_lines(function)
        return function

    def _may_move_lines(self, function: RoomFunction) -> None:
        """Let it take slots in the tenants' lines of queued calls, by the limits, and send what has one."""
        function.may_use(self._state.runs, ["UpdateItem", "DeleteItem"])
        function.may_use(self._state.control, ["BatchGetItem"])
        function.may(["sqs:SendMessage"], [self.queue.queue_arn])

    def _connect(self) -> None:
        """Say who may invoke whom, and refuse everybody else."""
        stage = self._stage
        agent, tool = function_arn(self, stage, "run_agent"), function_arn(self, stage, "run_tool")
        self.run_agent.may_invoke(tool, agent)
        self.work_tool_queue.may_invoke(tool, agent)
        self.sweep_runs.may_invoke(agent)
        lock_door(self.run_agent, callers=[role_arn(self, stage, door) for door in WAKERS])
        lock_door(self.run_tool, callers=[role_arn(self, stage, d) for d in ("run_agent", "work_tool_queue")])

        self.run_agent.may_invoke(self.sweep_runs.function.function_arn)
        # CDK's LambdaDestination would also grant every version and alias of the sweeper.
        lambda_.CfnEventInvokeConfig(
            self,
            "WhenTheAgentFails",
            function_name=self.run_agent.function.function_name,
            qualifier="$LATEST",
            maximum_retry_attempts=0,
            maximum_event_age_in_seconds=WAKE_PATIENCE.to_seconds(),
            destination_config=lambda_.CfnEventInvokeConfig.DestinationConfigProperty(
                on_failure=lambda_.CfnEventInvokeConfig.OnFailureProperty(
                    destination=self.sweep_runs.function.function_arn
                )
            ),
        )
        # Lambda's own six hours would let a throttled sweeper's minutes pile up, and come all at once.
        when_the_sweeper_fails = lambda_.CfnEventInvokeConfig(
            self,
            "WhenTheSweeperFails",
            function_name=self.sweep_runs.function.function_name,
            qualifier="$LATEST",
            maximum_retry_attempts=2,
            maximum_event_age_in_seconds=BURIAL_PATIENCE.to_seconds(),
        )
        accept(
            when_the_sweeper_fails,
            "What it was told of is due at the end of its lease: the next minute's sweep finds it.",
            "Serverless-LambdaAsyncFailureDestination",
        )
        minute = Duration.minutes(1)
        each_minute = events.Rule(
            self,
            "EachMinute",
            description="Wakes runs that are due",
            schedule=events.Schedule.rate(minute),
            targets=[targets.LambdaFunction(self.sweep_runs.function, retry_attempts=0, max_event_age=minute)],
        )
        accept(each_minute, "The next minute's event makes up for a lost one.", "Serverless-EventBusDLQ")

    def _outputs(self, data: DataRole) -> None:
        CfnOutput(self, "AgentFunction", value=self.run_agent.function.function_name)
        CfnOutput(self, "ToolFunction", value=self.run_tool.function.function_name)
        CfnOutput(self, "OperatorPolicyArn", value=self.operators.policy.managed_policy_arn)
        CfnOutput(self, "ToolQueueUrl", value=self.queue.queue_url)
        CfnOutput(self, "ToolDeadLetterQueueUrl", value=self.dead_letters.queue_url)
        CfnOutput(self, "AgentRoleArn", value=self.run_agent.role.role_arn)
        CfnOutput(self, "ToolRoleArn", value=self.run_tool.role.role_arn)
        CfnOutput(self, "DataRoleArn", value=data.role.role_arn)
