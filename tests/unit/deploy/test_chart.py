"""deploy/helm: the chart renders, Kubernetes accepts its manifests, and they do what docs/kubernetes.md says."""

from __future__ import annotations

import json
import os
import pickle
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from console.app import check_settings
from ops.cli import COMMANDS
from schemas.console_settings import ConsoleConfig, ConsoleProxy
from schemas.process_settings import SECRETS, load_process_settings
from schemas.settings import Config, Mode, Settings, load_config, load_settings, secret_variables
from tests.paths import ROOT

_REASON = "Helm and the schemas of Kubernetes are 100 MB: `make chart-tools` installs them"
helm = pytest.importorskip("helm_python", reason=_REASON)
validator = pytest.importorskip("kubernetes_validate", reason=_REASON)

CHART = ROOT / "deploy" / "helm" / "billing-stream"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
CONFIG = 'mode = "test"\n'
LEAST = {"settings": {"BILLING_KAFKA_BOOTSTRAP": "kafka:9092"}, "config": CONFIG}
ALL = {
    **LEAST,
    "processes": {
        "gateway": {"autoscaling": {"enabled": True}},
        "worker": {"autoscaling": {"enabled": True, "maxReplicas": 40}},
        "console": {"enabled": True},
    },
    "exports": {"existingClaim": "exports"},
    "payloads": {"existingClaim": "payloads"},
    "ingress": {"enabled": True, "host": "hooks.example.com", "tlsSecret": "tls", "className": "nginx"},
    "networkPolicy": {"enabled": True},
    "metrics": {"serviceMonitor": True, "prometheusRule": True, "docsUrl": "https://wiki.example.com/"},
    "operator": {"enabled": True},
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "billing", "operator": "Exists"}],
    "serviceAccount": {"annotations": {"a": "b"}},
    "podAnnotations": {"c": "d"},
}
KUBERNETES = "1.31"
JOBS = ("migrate", "topics")
PROXIED = Config(console=ConsoleConfig(proxy=ConsoleProxy(networks=["10.0.0.0/8"], header="X-User")))


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pickle.loads(_rendered(json.dumps(values, sort_keys=True)))
    return found


@cache
def _rendered(values: str) -> bytes:
    """The documents, pickled: each test gets its own copy. Rendering and parsing take much longer."""
    manifests = helm.Chart.load(str(CHART)).render(
        json.loads(values), name="billing", namespace="billing", is_install=True
    )
    pages = [text for path, text in sorted(manifests.items()) if path.endswith(".yaml")]
    return pickle.dumps([document for text in pages for document in yaml.safe_load_all(text) if document])


def of_kind(found: list[dict[str, Any]], *kinds: str) -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for document in found if document["kind"] in kinds}


def pods(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: document["spec"]["template"]["spec"]
        for name, document in of_kind(found, "Deployment", "StatefulSet", "Job").items()
    }


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    names = [entry["name"] for entry in container["env"]]
    assert len(names) == len(set(names))
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def test_the_chart_has_the_alarms_of_the_docs() -> None:
    """Helm reads no file outside the chart, so it is a copy: `cp docs/alerts.yml deploy/helm/billing-stream/files/`."""
    assert (CHART / "files" / "alerts.yml").read_bytes() == (ROOT / "docs" / "alerts.yml").read_bytes()


def test_each_process_and_job_is_a_command() -> None:
    assert VALUES["processes"].keys() | set(JOBS) <= COMMANDS.keys()
    assert VALUES["jobs"].keys() == {*JOBS, "existingSecret"}


def test_each_setting_that_the_chart_sets_exists() -> None:
    text = "".join(path.read_text() for path in (CHART / "templates").iterdir()) + (CHART / "values.yaml").read_text()
    named = {name.removeprefix("BILLING_").lower() for name in re.findall(r"BILLING_[A-Z_]+[A-Z]", text)}
    known = {str(field.alias or name) for name, field in Settings.model_fields.items()} | {"config"}
    known |= {"webhook_secret", "webhook_secret_name"}  # of endpoints, in the environment
    known |= {"gateway_url"}  # of `billing trigger`
    nested = {name for name in named if name.startswith("kafka_")}
    assert len(named) > 10
    assert named - nested <= known


@pytest.mark.parametrize("values", [LEAST, ALL], ids=["least", "all"])
def test_kubernetes_accepts_every_manifest(values: dict[str, Any]) -> None:
    own = [document for document in rendered(values) if "monitoring.coreos.com" not in document["apiVersion"]]
    assert len(own) > 10
    for document in own:
        validator.validate(document, KUBERNETES, strict=True)


def test_helm_finds_nothing_to_improve() -> None:
    report = helm.lint(str(CHART), LEAST, strict=True)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


def test_every_process_runs_restricted_and_is_probed() -> None:
    found = rendered(ALL)
    assert len(pods(found)) == 9
    for name, pod in pods(found).items():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"]
        assert container["envFrom"] == [{"secretRef": {"name": "billing-stream"}}]
    for name, document in of_kind(found, "Deployment", "StatefulSet").items():
        (container,) = document["spec"]["template"]["spec"]["containers"]
        if name == "billing-operator":
            continue  # it waits for commands
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez", name
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz", name
        # A brake that holds, or a broker that is away, makes a process not ready. A restart does not help.
        assert container["startupProbe"]["httpGet"] == {"path": "/livez", "port": "ops"}
        assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] >= 120


def test_no_pod_takes_variables_of_services_for_settings() -> None:
    """For the service of a release called `billing`, Kubernetes would set BILLING_GATEWAY_PORT=tcp://… in each pod."""
    for name, pod in pods(rendered(ALL)).items():
        assert pod["enableServiceLinks"] is False, name


def test_every_pod_is_placed_as_the_values_say_and_has_a_bound_on_what_it_writes() -> None:
    for name, pod in pods(rendered(ALL)).items():
        assert pod["nodeSelector"] == ALL["nodeSelector"], name
        assert pod["tolerations"] == ALL["tolerations"], name
        assert {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}} in pod["volumes"], name


def test_workers_keep_their_membership_and_never_outnumber_the_partitions() -> None:
    found = rendered(ALL)
    worker = of_kind(found, "StatefulSet")["billing-worker"]
    member = environment(worker["spec"]["template"]["spec"])["BILLING_MEMBER_ID"]
    assert member == {"fieldRef": {"fieldPath": "metadata.name"}}
    scaler = of_kind(found, "HorizontalPodAutoscaler")["billing-worker"]["spec"]
    assert scaler["maxReplicas"] == 12
    assert scaler["metrics"][0]["external"]["metric"]["name"] == "billing_consumer_lag_records"
    assert "replicas" not in worker["spec"]
    with pytest.raises(helm.HelmError, match="13 workers for 12 partitions"):
        rendered({**LEAST, "processes": {"worker": {"replicas": 13}}})


def test_every_process_with_several_pods_has_a_disruption_budget() -> None:
    found = rendered(LEAST)
    budgets = of_kind(found, "PodDisruptionBudget")
    several = {
        name
        for name, document in of_kind(found, "Deployment", "StatefulSet").items()
        if document["spec"]["replicas"] > 1
    }
    assert budgets.keys() == several == {"billing-gateway", "billing-worker", "billing-dispatcher", "billing-scheduler"}
    assert all(budget["spec"]["maxUnavailable"] == 1 for budget in budgets.values())


def test_tables_and_topics_are_made_before_the_processes_start() -> None:
    jobs = of_kind(rendered(LEAST), "Job")
    assert {name: job["spec"]["template"]["spec"]["containers"][0]["args"] for name, job in jobs.items()} == {
        "billing-migrate": ["migrate"],
        "billing-topics": ["topics", "--warn"],
    }
    assert all(job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade" for job in jobs.values())


def test_a_job_has_all_that_it_needs_before_the_release_exists() -> None:
    found = rendered(LEAST)
    jobs = of_kind(found, "Job")
    config = of_kind(found, "ConfigMap")["billing-jobs-config"]
    assert config["data"] == {"config.toml": CONFIG}
    notes = config["metadata"]["annotations"]
    assert notes["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert notes["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    for name, job in jobs.items():
        pod = job["spec"]["template"]["spec"]
        assert int(notes["helm.sh/hook-weight"]) < int(job["metadata"]["annotations"]["helm.sh/hook-weight"]), name
        assert environment(pod)["BILLING_CONFIG"] == "/etc/billing/config.toml"
        assert {"name": "config", "mountPath": "/etc/billing", "readOnly": True} in pod["containers"][0]["volumeMounts"]
        assert {"name": "config", "configMap": {"name": "billing-jobs-config"}} in pod["volumes"]
        assert "serviceAccountName" not in pod, "the chart's account does not exist yet"
    own = rendered({"settings": LEAST["settings"], "existingConfigMap": "mine"})
    assert "ConfigMap" not in {document["kind"] for document in own}
    assert {
        volume["configMap"]["name"] for pod in pods(own).values() for volume in pod["volumes"] if "configMap" in volume
    } == {"mine"}


@pytest.mark.parametrize("job", JOBS)
def test_a_job_loads_its_settings_from_what_the_chart_gives_it(
    job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = environment(pods(rendered(LEAST))[f"billing-{job}"])
    (tmp_path / "config.toml").write_text(CONFIG)
    for name in [name for name in os.environ if name.startswith("BILLING_")]:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value.replace("/etc/billing", str(tmp_path)))
    monkeypatch.setenv("BILLING_DATABASE_URL", "postgresql://owner:secret@postgres/billing?sslmode=require")
    settings = load_process_settings(job) if job in SECRETS else load_settings()
    assert load_config(settings.config_path).mode is Mode.TEST


def test_a_digest_decides_which_image_runs() -> None:
    digest = "sha256:" + "ab" * 32
    used = {
        container["image"]
        for pod in pods(rendered({**ALL, "image": {"tag": "1.2.3", "digest": digest}})).values()
        for container in pod["containers"]
    }
    assert used == {f"billing-stream:1.2.3@{digest}"}
    with pytest.raises(helm.HelmError, match="digest"):
        rendered({**LEAST, "image": {"digest": "sha256:latest"}})


def test_each_process_can_have_a_secret_of_its_own() -> None:
    values = {
        **LEAST,
        "processes": {"worker": {"existingSecret": "for-the-worker"}},
        "jobs": {"existingSecret": "jobs"},
    }
    given = {
        name.removeprefix("billing-"): pod["containers"][0]["envFrom"][0]["secretRef"]["name"]
        for name, pod in pods(rendered(values)).items()
    }
    assert given["worker"] == "for-the-worker"
    assert {given[job] for job in JOBS} == {"jobs"}
    assert {given[name] for name in given.keys() - {"worker", *JOBS}} == {"billing-stream"}


def test_the_operators_pod_waits_for_commands_with_a_login_of_its_own() -> None:
    assert "billing-operator" not in pods(rendered(LEAST))
    pod = pods(rendered({**ALL, "operator": {"enabled": True, "existingSecret": "operator"}}))["billing-operator"]
    (container,) = pod["containers"]
    assert container["command"] == ["sleep", "infinity"]
    assert container["envFrom"] == [{"secretRef": {"name": "operator"}}]
    assert environment(pod)["BILLING_EXPORTS_URL"] == "/var/lib/billing/exports"
    assert "BILLING_OPS_PORT" not in environment(pod)
    assert environment(pod)["BILLING_GATEWAY_URL"] == "http://billing-gateway"  # where `trigger` posts
    assert "livenessProbe" not in container


def test_operations_ports_are_reached_while_a_process_is_not_ready() -> None:
    services = of_kind(rendered(ALL), "Service")
    reached = {name for name, found in services.items() if found["spec"].get("publishNotReadyAddresses")}
    assert reached == services.keys() - {"billing-gateway", "billing-console"}


def test_the_console_is_off_by_default_and_starts_as_it_is_set_up() -> None:
    assert "billing-console" not in pods(rendered(LEAST))
    found = rendered(ALL)
    given = environment(pods(found)["billing-console"])
    assert given["BILLING_CONSOLE_WATCHES"].split(",")[0] == "analytics=http://billing-analytics:9090"
    assert "console=" not in given["BILLING_CONSOLE_WATCHES"]
    public = given["BILLING_CONSOLE_PUBLIC_URL"]
    for config, url in ((Config(), public), (PROXIED, "https://billing.example.com")):
        check_settings(
            Settings.model_construct(console_host=given["BILLING_CONSOLE_HOST"], console_public_url=url), config
        )
    ports = of_kind(found, "Service")["billing-console"]["spec"]["ports"]
    assert {"name": "console", "port": 8900, "targetPort": "console"} in ports
    beyond = {"console": {"enabled": True, "publicUrl": "https://billing.example.com"}}
    with pytest.raises(helm.HelmError, match=r"\[console.proxy\]"):
        rendered({**LEAST, "processes": beyond})
    with pytest.raises(helm.HelmError, match=r"\[console.proxy\]"):
        rendered({**LEAST, "config": CONFIG + "# [console.proxy]\n", "processes": beyond})
    signed_in = CONFIG + '[console.proxy]\nnetworks = ["10.0.0.0/8"]\nheader = "X-User"\n'
    assert "billing-console" in pods(rendered({**LEAST, "config": signed_in, "processes": beyond}))
    by_provider = CONFIG + '[console.oidc]\nissuer = "https://login.example.com"\n'
    assert "billing-console" in pods(rendered({**LEAST, "config": by_provider, "processes": beyond}))


def test_only_the_processes_of_the_release_reach_the_operations_ports() -> None:
    rules = of_kind(rendered(ALL), "NetworkPolicy")["billing"]["spec"]["ingress"]
    watched = [rule for rule in rules if "podSelector" in rule["from"][0]]
    assert {
        rule["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]: rule["ports"] for rule in watched
    } == {"console": [{"port": "ops"}], "operator": [{"port": "ops"}, {"port": "http"}]}
    assert not [rule for rule in rules if {"port": "console"} in rule["ports"]]


@pytest.mark.parametrize("peers", ["publicFrom", "metricsFrom", "consoleFrom"])
def test_a_list_without_peers_allows_no_one(peers: str) -> None:
    rules = of_kind(rendered({**ALL, "networkPolicy": {"enabled": True, peers: []}}), "NetworkPolicy")["billing"]
    assert all(rule["from"] for rule in rules["spec"]["ingress"])
    port = {"publicFrom": "http", "metricsFrom": "ops", "consoleFrom": "console"}[peers]
    allowed = [rule for rule in rules["spec"]["ingress"] if rule["ports"] == [{"port": port}]]
    assert all("podSelector" in rule["from"][0] for rule in allowed)


def test_no_secret_can_be_given_as_a_setting() -> None:
    schema = helm.Chart.load(str(CHART))
    plain = {"BILLING_KAFKA_BOOTSTRAP": "kafka:9092"}
    named = {*secret_variables(), "BILLING_WEBHOOK_SECRET", "BILLING_WEBHOOK_SECRET_CONNECT", "BILLING_FEED_SECRET_APP"}
    for name in sorted(named):
        with pytest.raises(helm.HelmError, match=name):
            schema.validate_schema({**LEAST, "settings": {**plain, name: "x"}})
        schema.validate_schema({**LEAST, "settings": {**plain, name + "_FILE": "/run/secrets/x"}})


def test_the_documented_secret_has_what_each_process_needs_to_start() -> None:
    """The command of the install, and what the gateway can't start without."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    named = set(re.findall(r"--from-literal=(BILLING_[A-Z_]+)=", page))
    assert named >= {"BILLING_WEBHOOK_SECRET", "BILLING_DATABASE_URL", "BILLING_LINK_SECRET"}
    assert named <= secret_variables().keys() | {"BILLING_WEBHOOK_SECRET"}
    assert "secrets_env" not in page + (CHART / "values.yaml").read_text()


def test_only_the_gateway_is_public_and_only_on_the_public_port() -> None:
    found = rendered(ALL)
    services = of_kind(found, "Service")
    public = {name for name, service in services.items() if service["spec"].get("clusterIP") != "None"}
    assert public == {"billing-gateway"}
    (rule,) = of_kind(found, "Ingress")["billing"]["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": "billing-gateway", "port": {"name": "http"}}


def test_the_alarms_lead_to_the_docs_of_the_team() -> None:
    rules = of_kind(rendered(ALL), "PrometheusRule")["billing"]["spec"]["groups"][0]["rules"]
    documented = yaml.safe_load((ROOT / "docs" / "alerts.yml").read_text())["groups"][0]["rules"]
    assert [rule["expr"] for rule in rules] == [rule["expr"] for rule in documented]
    assert all(
        rule["annotations"]["runbook_url"].startswith("https://wiki.example.com/runbook.html#") for rule in rules
    )
    own = {**ALL, "metrics": {"prometheusRule": True}}
    rules = of_kind(rendered(own), "PrometheusRule")["billing"]["spec"]["groups"][0]["rules"]
    assert all(rule["annotations"]["runbook_url"].startswith("docs/runbook.md#") for rule in rules)
    monitor = of_kind(rendered(ALL), "ServiceMonitor")["billing"]["spec"]
    assert monitor["jobLabel"] == "app.kubernetes.io/component"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "BILLING_KAFKA_BOOTSTRAP is required"),
        ({"settings": {"BILLING_KAFKA_BOOTSTRAP": "k:9092"}}, "config or existingConfigMap"),
        ({**LEAST, "settings": {"BILLING_DATABASE_URL": "postgresql://u:p@h/db"}}, "BILLING_DATABASE_URL"),
        ({**LEAST, "config": 'secrets = ["whsec_0123456789abcdef0123"]'}, "config"),
        ({**LEAST, "config": 'secrets = ["whsec_MfKQ9r8G+KYqTwjU/PD8=="]'}, "config"),
        ({**LEAST, "processes": {"worker": {"replicas": "two"}}}, "replicas"),
        ({**LEAST, "wrokers": 3}, "wrokers"),
    ],
    ids=[
        "no Kafka",
        "no config",
        "a secret as a setting",
        "a webhook secret in the config",
        "a webhook secret of base64 in the config",
        "a text",
        "a typing error",
    ],
)
def test_wrong_values_are_refused_with_their_name(values: dict[str, Any], message: str) -> None:
    chart = helm.Chart.load(str(CHART))

    def install() -> None:
        chart.validate_schema(values)
        rendered(values)

    with pytest.raises(helm.HelmError, match=message):
        install()
