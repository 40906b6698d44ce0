"""Stories of what once went wrong for customers and operators, and the tests of each of them."""

from __future__ import annotations

RULES, CHECKS = "tests/unit/streams/rules", "tests/contract/sinks/email/test_checks.py"

STORIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "G1": (
        "A dunning mail was sent for an invoice that had been paid meanwhile.",
        (
            f"{CHECKS}::test_nothing_is_asked_for_what_is_not_owed",
            "tests/contract/sinks/email/test_truth.py::test_an_untrue_mail_is_withheld_with_its_reason",
        ),
    ),
    "G2": (
        "A trial reminder named the wrong number of days, or came after the trial.",
        (
            f"{CHECKS}::test_a_trial_is_counted_when_the_mail_leaves",
            f"{CHECKS}::test_a_trial_that_is_over_is_not_announced",
        ),
    ),
    "G3": (
        "A failed invoice of an ended subscription promised access.",
        (f"{RULES}/test_invoices.py::test_C3_nothing_is_dunned_after_the_subscription_has_ended",),
    ),
    "G4": (
        "One change of plan sent two mails.",
        (
            f"{RULES}/test_access.py::test_B3_a_change_of_plan_is_mailed_once_in_any_order",
            f"{RULES}/test_access.py::test_B3_changes_of_plan_within_one_second_are_mailed_once_each",
            f"{RULES}/test_access.py::test_B3_three_changes_are_three_mails",
        ),
    ),
    "G5": (
        "The decline reason reached no mail.",
        (
            f"{CHECKS}::test_dunning_has_the_present_amount_reason_and_names",
            f"{CHECKS}::test_a_second_attempt_does_not_repeat_the_reason_of_the_first",
            f"{CHECKS}::test_a_notice_waits_a_moment_for_the_decline_reason",
        ),
    ),
    "G6": (
        "The welcome mail lacked price, interval and trial if the checkout's event came first.",
        (f"{CHECKS}::test_a_welcome_mail_is_completed_by_the_subscriptions_event",),
    ),
    "G7": (
        "Two equal mails about one expiring card left in one second.",
        (f"{CHECKS}::test_two_steps_of_a_card_that_are_due_together_become_one_mail",),
    ),
    "G8": (
        "A deleted customer never heard of the export.",
        (f"{RULES}/test_customers.py::test_B6_a_deleted_customer_waits_for_erasure",),
    ),
    "G9": (
        "An erasure missed dead letters that name no customer.",
        (
            "tests/contract/sinks/postgres/test_erasure.py::test_B6_letters_of_events_that_name_no_customer_are_discarded",
        ),
    ),
    "G10": (
        "A customer's update without previous attributes was dropped.",
        (f"{RULES}/test_customers.py::test_C11_an_update_without_previous_attributes_is_a_whole_object",),
    ),
    "G11": (
        "The cancellation mail announced an export that did not exist yet.",
        (f"{CHECKS}::test_a_cancellation_mail_waits_for_its_archive_up_to_a_limit",),
    ),
    "G12": (
        "A voided invoice that was never paid left the billing status paid.",
        (f"{RULES}/test_access.py::test_C1_a_voided_invoice_that_was_never_paid_is_not_paid",),
    ),
    "G13": (
        "Mails about failures and cancellations did not name the organization.",
        (f"{CHECKS}::test_names_are_those_of_now_in_every_mail_to_a_customer",),
    ),
    "G14": (
        "A one-time purchase was fulfilled and nothing was sent.",
        (f"{RULES}/test_checkout.py::test_B2_a_delayed_purchase_is_fulfilled_when_it_is_paid",),
    ),
    "G15": (
        "Mails to the operator linked the wrong page and showed minor units.",
        (f"{RULES}/test_operator_mails.py::test_C10_operator_mails_name_amount_mode_and_account",),
    ),
    "G16": (
        "The ledger and the letter of a dead event named different streams.",
        ("tests/contract/streams/test_burials.py::test_ledger_and_letter_of_a_malformed_event_name_the_same_stream",),
    ),
    "G17": (
        "A new billing address was not kept.",
        (f"{RULES}/test_customers.py::test_C11_a_new_billing_address_is_kept",),
    ),
}
"""By id: what went wrong, and the tests."""
