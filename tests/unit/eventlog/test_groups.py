"""The bytes of a group member's assignment, as in Kafka's consumer protocol."""

from __future__ import annotations

import pytest

from eventlog.groups import assigned
from schemas.errors import LogUnavailable

_OF_TWO_TOPICS = (
    b"\x00\x03"  # the version
    b"\x00\x00\x00\x02"
    b"\x00\x03b.e\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x0b"
    b"\x00\x03b.c\x00\x00\x00\x00"
    b"\x00\x00\x00\x01u"  # the user data
)


def test_the_partitions_of_each_topic_are_found() -> None:
    assert assigned(_OF_TWO_TOPICS) == {"b.e": [0, 11], "b.c": []}


def test_a_member_that_is_joining_has_no_partition() -> None:
    assert assigned(b"") == {}


@pytest.mark.parametrize("cut", [1, 5, 7, 9, 12, 20])
def test_other_bytes_are_refused(cut: int) -> None:
    with pytest.raises(LogUnavailable, match="consumer protocol"):
        assigned(_OF_TWO_TOPICS[:cut])


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(LogUnavailable, match="consumer protocol"):
        assigned(b"\x00\x03\x00\x00\x00\x01\xff\xff\x00\x00\x00\x01\x00\x00\x00\x00")
