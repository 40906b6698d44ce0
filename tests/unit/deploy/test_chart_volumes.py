"""deploy/helm: the volumes and addresses of exports and of the archive of payloads."""

from __future__ import annotations

from tests.unit.deploy.test_chart import LEAST, VALUES, environment, pods, rendered


def test_archives_are_mounted_where_they_are_written_and_read_only_at_the_gateway() -> None:
    own = {"processes": {"mailer": {"enabled": True, "replicas": 1, "args": ["dispatcher"], "resources": {}}}}
    mounted = {
        name: mount.get("readOnly", False)
        for name, pod in pods(
            rendered({**LEAST, **own, "exports": {"existingClaim": "x"}, "operator": {"enabled": True}})
        ).items()
        for mount in pod["containers"][0]["volumeMounts"]
        if mount["name"] == "exports" and "exports" in {volume["name"] for volume in pod["volumes"]}
    }
    assert mounted == {
        "billing-gateway": True,
        "billing-dispatcher": False,
        "billing-mailer": False,
        "billing-operator": False,
    }
    assert "persistentVolumeClaim" not in str(pods(rendered(LEAST)))


def test_the_archive_of_payloads_reaches_those_that_write_and_read_it() -> None:
    """As in docker-compose.yml. `mailer` is a dispatcher under another name, which keeps what its command is."""
    mailer = {**VALUES["processes"]["dispatcher"], "args": ["dispatcher", "--only", "mail"]}
    own = {"processes": {"console": {"enabled": True}, "mailer": mailer}, "operator": {"enabled": True}}
    writers, readers = (
        {"billing-scheduler", "billing-operator"},
        {"billing-console", "billing-dispatcher", "billing-mailer"},
    )
    mounted = {}
    for name, pod in pods(rendered({**LEAST, **own, "payloads": {"existingClaim": "x"}})).items():
        is_given = environment(pod).get("BILLING_PAYLOADS_URL") == "/var/lib/payloads"
        mounts = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "payloads"]
        claims = [volume for volume in pod["volumes"] if volume["name"] == "payloads"]
        assert is_given is bool(mounts) is bool(claims), name
        if mounts:
            assert mounts[0]["mountPath"] == "/var/lib/payloads"
            assert claims[0]["persistentVolumeClaim"] == {"claimName": "x"}
            mounted[name] = mounts[0].get("readOnly", False)
    assert mounted == dict.fromkeys(writers, False) | dict.fromkeys(readers, True)

    stored = pods(rendered({**LEAST, **own, "payloads": {"url": "s3://bucket/payloads"}}))
    given = {
        name for name, pod in stored.items() if environment(pod).get("BILLING_PAYLOADS_URL") == "s3://bucket/payloads"
    }
    assert given == writers | readers
    assert "persistentVolumeClaim" not in str(stored)
