"""The dashboard and the alerts use metrics that are recorded, and none else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
import yaml

from tests.support.environment import ROOT

FOLDER = ROOT / "docs" / "observability"
SOURCES = "".join(path.read_text() for path in (ROOT / "basiq_async" / "otel").glob("*.py"))
WORDS = {"and", "or", "by", "le", "sum", "max", "rate", "increase", "absent", "histogram_quantile"}


def expressions() -> Iterator[str]:
    dashboard = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_every_name_of_an_expression_is_recorded(expression: str) -> None:
    names = set(re.findall(r"[a-z][a-z_]+", re.sub(r'"[^"]*"|\[\w+\]', "", expression))) - WORDS
    assert names
    dotted = {re.sub(r"[._]", "_", found): found for found in re.findall(r'"([a-z_]+(?:\.[a-z_]+)+)"', SOURCES)}
    for name in names:
        base = re.sub(r"_(total|seconds_count|seconds_bucket|seconds)$", "", name)
        assert base in dotted, name


def test_each_panel_and_each_rule_has_a_title() -> None:
    dashboard = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(panel["title"] for panel in dashboard["panels"])
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]:
        assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in group["rules"])
