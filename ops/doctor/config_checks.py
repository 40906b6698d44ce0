"""Checks that need no service: endpoints and their secrets, plans, mails, the feed, schedules."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.endpoints import webhook_endpoints
from ops.doctor.findings import CheckResult, Situation, failed, ok, warning
from schemas.feed_secrets import feed_secrets
from schemas.process_settings import start_warnings
from schemas.settings import Mode
from sinks.email.addresses import UnusableAddress
from sinks.email.message import Composer
from sinks.email.template_check import UnusableTemplates, check_templates


async def check_config(situation: Situation) -> Sequence[CheckResult]:
    settings, config = situation.settings, situation.config
    found = [ok(f"{settings.config_path}: {config.mode} mode, {len(config.plans)} plans")]
    if not any(plan.prices for plan in config.plans.values()):
        remedy = "list the prices of each plan in [plans.NAME]: customers without a plan have no limits"
        found.append(warning("no plan has a price", remedy))
    return [*found, *(warning(line, "correct the environment of this process") for line in start_warnings(settings))]


async def check_secrets(situation: Situation) -> Sequence[CheckResult]:
    settings, config = situation.settings, situation.config
    endpoints = webhook_endpoints(config)
    secrets = sum(len(endpoint.secrets) for endpoint in endpoints.values())
    found = [ok(f"{len(endpoints)} endpoints with {secrets} signing secrets: {', '.join(endpoints)}")]
    for name, destination in config.feed.destinations.items():
        found.append(ok(f"feed.destinations.{name}: {len(feed_secrets(name, destination))} secrets"))
    if settings.link_secret is None:
        remedy = "set BILLING_LINK_SECRET to 32 random characters or more, the same for dispatcher and gateway"
        found.append(warning("mails have no export link, and customers unsubscribe by mail", remedy))
    return found


async def check_mails(situation: Situation) -> Sequence[CheckResult]:
    mail = situation.config.mail
    try:
        composer = Composer(mail)
    except UnusableAddress as error:
        return [failed(str(error), "correct mail.sender, mail.operator or mail.reply_to")]
    try:
        check_templates(mail)
    except UnusableTemplates as error:
        return [failed(str(error), "correct the file; billing mail preview --serve shows each change")]
    found = [ok(f"mails are sent by {composer.sender.domain}")]
    if (domain := composer.sender.domain) in ("localhost", "example.com"):
        found.append(warning(f"mail.sender is at {domain}", "set mail.sender to an address of your own domain"))
    if mail.local_links:  # in live mode, the config is refused
        remedy = 'set them to pages of your product before mode = "live"'
        found.append(warning(f"{', '.join(mail.local_links)} lead to this machine", remedy))
    if not mail.brand.address:
        remedy = "set mail.brand.address: many countries ask for it in each mail"
        found.append(warning("mails have no postal address", remedy))
    if mail.customer_portal and situation.settings.link_secret is None:
        remedy = "set BILLING_LINK_SECRET, the same for dispatcher and gateway"
        found.append(failed("mail.customer_portal has no secret to sign its links", remedy))
    if situation.config.mode is Mode.TEST and mail.send_test_mode:
        remedy = "test data may contain addresses of real people: switch mail.send_test_mode off if it does"
        found.append(warning("mails of test mode are sent", remedy))
    return found


async def check_schedules(situation: Situation) -> Sequence[CheckResult]:
    settings = situation.settings
    schedules = {
        "reconcile": (settings.reconcile_pause_s, "BILLING_RECONCILE_EVERY_S", "events that never arrive stay unknown"),
        "retry": (
            settings.retry_failed_pause_s,
            "BILLING_RETRY_FAILED_EVERY_S",
            "dead letters wait for an operator",
        ),
        "audit": (settings.audit_pause_s, "BILLING_AUDIT_EVERY_S", "differences from Stripe stay unknown"),
    }
    return [
        ok(f"{name} runs every {pause:g} s")
        if pause
        else warning(f"{name} is off: {effect}", f"set BILLING_STRIPE_API_KEY for the scheduler, and not {variable}=0")
        for name, (pause, variable, effect) in schedules.items()
    ]
