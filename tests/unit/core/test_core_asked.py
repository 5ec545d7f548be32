"""What a block request asks for, by itself."""

from core_world import facts_of
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.asked import find_artifact, ranges_of, wanted_blocks
from ota_bridge.core.messages import BlockRequest, Grant, GrantState
from ota_bridge.core.values import DeploymentId, Sha256

FACTS = facts_of()
TICKET = Sha256(b"t" * 32)


def grant(deployment="0123456789ab", **changes):
    plain = {"deployment": DeploymentId(deployment), "rollout": None, "state": GrantState.OPEN, "manifest": FACTS}
    return Grant(**(plain | changes))


@given(st.binary(min_size=1, max_size=40), st.integers(1, 400))
def test_the_wanted_blocks_are_at_most_count_in_rising_order(missing, count):
    request = BlockRequest(artifact=b"x" * 8, offset=0, size=1, count=count, missing=missing)
    wanted = list(wanted_blocks(request))
    everything = [index for index in range(len(missing) * 8) if missing[index // 8] >> index % 8 & 1]
    assert everything[:count] == wanted


def test_ranges_end_with_the_artifact():
    request = BlockRequest(artifact=b"x" * 8, offset=9_000, size=600, count=5)
    assert [(9_000, 600), (9_600, 400)] == ranges_of(request, 10_000)
    assert [] == ranges_of(request, 9_000)


def test_a_name_means_the_image_its_chunk_list_or_something_small_of_the_same_grant():
    only = grant(inline=((TICKET, b"ticket"),))
    for digest in (FACTS.sha256, FACTS.merkle_root, TICKET):
        assert (only, digest) == find_artifact([only], digest[:8]) == find_artifact([only], digest)


def test_a_name_that_is_too_short_or_unknown_or_fits_two_means_nothing():
    twins = grant(inline=((Sha256(b"t" * 8 + b"a" * 24), b"a"), (Sha256(b"t" * 8 + b"b" * 24), b"b")))
    assert None is find_artifact([twins], FACTS.sha256[:7])
    assert None is find_artifact([twins], b"u" * 8)
    assert None is find_artifact([twins], b"t" * 8)
    assert (twins, b"t" * 8 + b"a" * 24) == find_artifact([twins], b"t" * 8 + b"a")


def test_two_grants_of_the_same_image_are_no_doubt():
    assert FACTS.sha256 == find_artifact([grant(), grant("ba9876543210")], FACTS.sha256[:8])[1]
