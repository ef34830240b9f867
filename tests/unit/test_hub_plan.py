"""A plan of a model that is not here: its headers are read from a hub on this machine, and what goes wrong is said."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from tests.hub import TOKEN, Hub, hub_of
from tests.unit.hub_user import UNWANTED, WANTED, WEIGHTS, User, refusal


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_of(WANTED | UNWANTED) as running:
        yield running


@pytest.fixture
def user(hub: Hub, tmp_path: Path) -> User:
    return User(tmp_path, hub.url)


def plan_of(user: User) -> dict[str, Any]:
    done = user.plan("--json")
    assert done.returncode == 0, done.stderr
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


# 1.5 million parameters, of 4 bytes in the file and of 2 when they are loaded, and the table of the positions.
WEIGHTS_MIB = 3 + 1


def weights_mib(plan: dict[str, Any]) -> int:
    return int(plan["memory_mib"]["weights"])


def test_a_plan_reads_the_headers_only_and_then_needs_no_hub(hub: Hub, user: User) -> None:
    plan = plan_of(user)
    assert weights_mib(plan) == WEIGHTS_MIB
    assert hub.ranges_of("model.safetensors") == ["bytes=0-262143"]
    assert not any(name in each.path for each in hub.asked for name in ("tokenizer", "chat_template", *UNWANTED))
    assert not user.cache.exists()
    # Nor is anything else asked for, or told: no statistics.
    assert all("someone/model" in each.path or each.path.startswith("/cdn/") for each in hub.asked)

    hub.asked.clear()
    assert plan_of(user) == plan
    user.more["HF_HUB_OFFLINE"] = "1"
    assert plan_of(user) == plan
    assert hub.asked == []


def test_a_dry_run_plans_alike(user: User) -> None:
    done = user.run("serve", "--profile", "rtx3060", "--model", "someone/model", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "vllm serve" in done.stdout
    assert not user.cache.exists()


def test_a_model_in_shards_is_added_up(hub: Hub, user: User) -> None:
    del hub.files["model.safetensors"]
    shards = {f"model-0000{n}-of-00002.safetensors": save({str(n): np.zeros(2**20, np.float32)}) for n in (1, 2)}
    index = {"weight_map": {str(n): name for n, name in enumerate(shards, start=1)}}
    hub.files |= shards | {"model.safetensors.index.json": json.dumps(index).encode()}
    assert weights_mib(plan_of(user)) == 4 + 1


def test_a_hub_that_knows_no_ranges_gives_the_same_plan(hub: Hub, user: User) -> None:
    hub.has_ranges = False
    assert weights_mib(plan_of(user)) == WEIGHTS_MIB


@pytest.mark.parametrize("fault", ["cuts", "busy"])
def test_a_fault_that_passes_is_not_noticed(hub: Hub, user: User, fault: str) -> None:
    setattr(hub, fault, 2)
    assert weights_mib(plan_of(user)) == WEIGHTS_MIB
    assert len(hub.ranges_of("model.safetensors")) == 3


def test_a_hub_that_is_busy_is_asked_again_before_another(hub: Hub, user: User) -> None:
    hub.api_busy, hub.modelscope = 2, True
    assert weights_mib(plan_of(user)) == WEIGHTS_MIB
    assert not any(each.path.startswith("/api/v1/") for each in hub.asked)


def test_the_token_is_told_to_the_hub_and_never_to_where_it_redirects(hub: Hub, user: User) -> None:
    plan_of(user)
    tokens = {each.host.partition(":")[0]: each.token for each in hub.asked}
    assert tokens == {"127.0.0.1": f"Bearer {TOKEN}", "localhost": ""}


def test_what_hugging_face_does_not_give_is_planned_from_modelscope(hub: Hub, user: User) -> None:
    hub.gated = hub.modelscope = True
    done = user.plan("--json")
    assert done.returncode == 0, done.stderr
    assert weights_mib(json.loads(done.stdout)) == WEIGHTS_MIB
    assert "someone/model is gated" in done.stderr
    assert "Taken from ModelScope" in done.stderr
    # It is not told the token of another.
    assert {each.token for each in hub.asked if each.path.startswith("/api/v1/")} == {""}

    hub.asked.clear()
    plan_of(user)
    assert hub.asked == []


def test_each_hub_that_refuses_is_quoted(hub: Hub, user: User) -> None:
    hub.gated = True
    message = refusal(user.plan())
    assert f"Hugging Face ({hub.url}): someone/model is gated: accept its licence" in message
    assert "HF_TOKEN" in message
    assert f"ModelScope ({hub.url}): there is no model 'someone/model'" in message
    assert "network" not in message  # it is not to blame


def test_a_revision_that_no_hub_has(hub: Hub, user: User, tmp_path: Path) -> None:
    hub.modelscope = True
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(
        "title: mine\nsource: {hub: someone/model, revision: v9, publisher: someone, licence: MIT}\n"
        "served_model_name: [mine]\ndefault_max_tokens: 16\nlargest_max_tokens: 16\n"
    )
    message = refusal(user.run("plan", "--profile", "rtx3060", "--model", str(yaml)))
    assert message.count("someone/model has no revision 'v9'") == 2


def test_a_network_that_asks_for_a_login_is_reported(hub: Hub, user: User) -> None:
    hub.portal = True
    message = refusal(user.plan())
    assert "Hugging Face" in message
    assert "cannot be reached" in message
    assert "the proxy" in message


def test_a_hub_that_hangs_up_is_reported(hub: Hub, user: User) -> None:
    hub.hangs_up = True
    assert "cannot be reached (Server disconnected" in refusal(user.plan())


def test_a_token_that_the_hub_does_not_know(hub: Hub, user: User) -> None:
    hub.knows_token = False
    assert "does not know the token that HF_TOKEN" in refusal(user.plan())


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SSL_CERT_FILE", "/no/such"), ("HTTP_PROXY", "x://y"), ("ALL_PROXY", "socks5://127.0.0.1:9")],
)
def test_an_environment_that_allows_no_connection(user: User, variable: str, value: str) -> None:
    user.more = {variable: value, "no_proxy": ""}
    assert refusal(user.plan()).count("cannot be") == 2


def test_a_text_model_is_refused_whichever_hub_has_it(hub: Hub, user: User) -> None:
    hub.files["config.json"] = b'{"architectures": ["LlamaForCausalLM"]}'
    hub.modelscope = True
    assert "someone/model is not a vision-language model" in refusal(user.plan(), 5)
    assert not any(each.path.startswith("/api/v1/") for each in hub.asked)


@pytest.mark.parametrize(
    ("weights", "listed", "says"),
    [
        (WEIGHTS[:100], None, "its header is longer than the file"),
        (WEIGHTS[:-1], None, "its header promises 6,000,"),
        (WEIGHTS[:4], None, "it is shorter than a header"),
        (struct.pack("<Q", 2**62) + WEIGHTS[8:], None, "its header is longer than the file"),
        (struct.pack("<Q", 150_000_000) + WEIGHTS[8:], 2**40, "its header would be 150,000,000 bytes"),
        (struct.pack("<Q", 20) + WEIGHTS[8:], None, "not what safetensors prescribes"),
    ],
)
def test_weights_that_are_broken_on_the_hub(
    hub: Hub, user: User, weights: bytes, listed: int | None, says: str
) -> None:
    hub.files["model.safetensors"] = weights
    if listed:
        hub.listed_sizes["model.safetensors"] = listed
    message = refusal(user.plan(), 5)
    assert "someone/model/model.safetensors is broken or cut off" in message
    assert says in message
    assert "on the hub is broken" in message


def test_a_file_that_is_not_what_the_hub_lists(hub: Hub, user: User) -> None:
    hub.given["config.json"] = b"{}"
    assert "other bytes of config.json than" in refusal(user.plan())
    hub.has_ranges = False
    assert "what comes for config.json is not the" in refusal(user.plan())


def test_a_damaged_copy_of_what_was_read_is_read_again(user: User) -> None:
    plan = plan_of(user)
    for kept in (user.home / "state" / "hub").rglob("*"):
        if kept.is_file():
            kept.write_bytes(kept.read_bytes()[:-1])
    assert plan_of(user) == plan
