"""From the configuration and the model's operating points to the policy that alerts follow."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from edge.alerts.events import Priority
from edge.alerts.policy import AlertPolicy
from edge.daemon.config import AlertsConfig, ClassAlertConfig
from edge.errors import ConfigError
from edge.runtime.manifest import Manifest, OperatingPoint

SOURCE = "alerts.classes"


def alert_policy(alerts: AlertsConfig, manifest: Manifest) -> AlertPolicy:
    """Return the policy in force: the bundle's operating points with what the configuration says otherwise.

    Raises ConfigError, all problems at once, for a class that raises no alert and for thresholds that cross.
    """
    policy = AlertPolicy(
        classes=tuple(manifest.classes),
        points=manifest.operating_points,
        hop_s=manifest.hop_s,
        window_s=manifest.window_s,
        refractory_s=alerts.refractory_s,
        update_every_s=alerts.update_every_s,
        max_raises_per_hour=alerts.max_raises_per_hour,
        expires_s=alerts.expires_s,
    )
    points = dict(policy.points)
    priorities = dict(policy.priorities)
    for name, override in alerts.classes.items():
        if name in policy.alerting:
            points[name] = _overridden(points[name], override)
            priorities[name] = policy.priority(name) if override.priority is None else Priority(override.priority)
    problems = [
        *(f"{name}: no class that raises alerts; these do: {', '.join(policy.alerting)}"
          for name in alerts.classes if name not in policy.alerting),
        *(f"{name}: off {point.off:g} is above on {point.on:g} once the bundle's values are filled in; give both"
          for name, point in points.items() if point.off > point.on),
    ]  # fmt: skip
    if problems:
        raise ConfigError(SOURCE, tuple(problems))
    return replace(policy, points=points, priorities=priorities)


def _overridden(point: OperatingPoint, override: ClassAlertConfig) -> OperatingPoint:
    given = override.model_dump(include={"on", "off", "dwell_s"}, exclude_none=True)
    return msgspec.structs.replace(point, **given)
