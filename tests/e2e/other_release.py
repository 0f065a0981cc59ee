"""The doors of shim and agent under the release with some of its fields changed, for tests that need other ones.

KEEPGATE_RELEASE_CHANGES holds the fields as JSON, those of `caps` one by one. The product's release stays as it is.
"""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from agent.release import Caps, Release
from lambdas import run_agent, shim, telemetry, wiring
from lambdas.settings import RunAgentSettings, ShimSettings

Handler = Callable[[Any, Any], Any]


def _changed(release: Release) -> Release:
    changes = json.loads(os.environ["KEEPGATE_RELEASE_CHANGES"])
    caps = Caps.model_validate({**release.caps.model_dump(), **changes.pop("caps", {})})
    # Not validated as a file is: once read, a release has the tools of its servers among its own.
    return release.model_copy(update={**changes, "caps": caps})


@cache
def _shim() -> Handler:
    settings = ShimSettings.from_environment(os.environ)
    room = wiring.shim(settings)
    handle = shim.door(replace(room, release=_changed(room.release)), frozenset(settings.client_ids.split(",")))
    return telemetry.start(settings).door(handle)


@cache
def _agent() -> Handler:
    settings = RunAgentSettings.from_environment(os.environ)
    tell = telemetry.start(settings)
    runtime = wiring.agent_runtime(settings)
    changed = replace(runtime, releases=lambda name: _changed(runtime.releases(name)))
    return tell.door(run_agent.door(changed, tell.count_run))


def shim_handler(event: Any, context: Any) -> Any:
    return _shim()(event, context)


def agent_handler(event: Any, context: Any) -> Any:
    return _agent()(event, context)
