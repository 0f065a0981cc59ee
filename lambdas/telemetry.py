"""Logs, metrics and traces of a function, set up once per process and given to each door by one decorator.

    tell = telemetry.start(settings)

    @tell.door
    def handler(event, context): ...

The door's span continues the trace that came with the ids (`traceparent`), or else Lambda's own; it is flushed before
the answer leaves, because Lambda freezes the process then. Contents never go out: an error is logged as its class, its
stable code and its places in the code, without its message. Metrics are counted by `count_run`.
"""

import functools
import json
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import getLogger
from typing import Any, Concatenate

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind

from agent import tracing
from agent.errors import KeepgateError
from lambdas.settings import Settings
