"""The dashboard and the alerts use metrics that are recorded, and none else; commands in them are real."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator

import pytest
import typer
import yaml

from basiq_async.receiver import Result
from tests.support.command_line import program
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


LABELS = {
    "messaging_process_duration_seconds": {
        "basiq_result",
        "basiq_event_type",
        "basiq_reason",
        "basiq_deferred",
        "error_type",
    },
    "basiq_replay_messages_total": {"basiq_outcome", "basiq_source"},
    "basiq_delivery_age_seconds": {"basiq_result", "basiq_deferred"},
    "http_client_request_duration_seconds": {"url_template", "error_type", "http_response_status_code"},
}
SIGNATURES = (ROOT / "basiq_async" / "_signing" / "signature.py").read_text()
VALUES = {
    "basiq_outcome": {"handled", "skipped", "failed"},
    "basiq_result": {each.value for each in Result},
    "basiq_reason": set(re.findall(r'reason="([a-z-]+)"', SIGNATURES)),
}


@pytest.mark.parametrize("expression", sorted(each for each in set(expressions()) if "{" in each))
def test_a_selector_has_labels_of_its_metric_and_values_that_occur(expression: str) -> None:
    for metric, selectors in re.findall(r"([a-z_]+)\{([^}]*)\}", expression):
        for selector in selectors.split(","):
            found = re.fullmatch(r'\s*([a-z_]+)(?:=|!=)"([^"]*)"', selector)
            assert found is not None, selector
            label, value = found.groups()
            assert label in LABELS[re.sub(r"_(count|bucket)$", "", metric)], (metric, label)
            assert not value or value in VALUES[label], (label, value)


def _commands() -> list[str]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    texts = [text for group in groups for rule in group["rules"] for text in rule["annotations"].values()]
    manifests = re.findall(r"command: (\[basiq-async.*\])", (ROOT / "docs" / "howto" / "deploy.md").read_text())
    lines = [line for text in texts for line in re.findall(r"`(basiq-async [^`]*)`", text)]
    return lines + [shlex.join(yaml.safe_load(words)) for words in manifests]


@pytest.mark.parametrize("line", _commands())
def test_each_command_in_an_alert_or_manifest_is_one_that_the_program_accepts_as_it_is_printed(line: str) -> None:
    command, words = program(), shlex.split(line)[1:]
    context = typer.Context(command, info_name="basiq-async")
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        context = typer.Context(command, parent=context, info_name=name)
    parsed = command.make_context(context.info_name, words)
    arguments = [each.name for each in command.params if each.param_type_name == "argument"]
    assert not [name for name in arguments if ":" in str(parsed.params[name])], "a receiver is an option's value"


def test_the_alerts_have_commands() -> None:
    assert len(_commands()) >= 6
