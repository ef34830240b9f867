"""Downloads as a user starts them, from a hub on this machine, and everything that can go wrong on the way."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.machine.port import free_port
from tests.hub import COMMIT, TOKEN, Hub, hub_of
from tests.unit.hub_user import UNWANTED, WANTED, WEIGHTS, User, refusal, starts_of, succeeds, wait_for


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_of(WANTED | UNWANTED) as running:
        yield running


@pytest.fixture
def user(hub: Hub, tmp_path: Path) -> User:
    return User(tmp_path, hub.url)


def test_a_model_is_downloaded_once_and_then_needs_no_hub(hub: Hub, user: User) -> None:
    first = user.pull()
    assert succeeds(first) == user.cache / "snapshots" / COMMIT
    # Pickles, code and what leads out of the folder are not even asked for.
    assert user.files() == WANTED
    assert not any(each.path.endswith(name) for each in hub.asked for name in UNWANTED)
    assert f"someone/model from Hugging Face, commit {COMMIT}: 6.0 MB." in first.stderr
    assert "every checksum is right" in first.stderr
    assert {each.token for each in hub.asked if each.host.startswith("localhost")} == {""}
    assert {each.token for each in hub.asked if each.host.startswith("127")} == {f"Bearer {TOKEN}"}

    hub.asked.clear()
    for more in ({}, {"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": f"http://127.0.0.1:{free_port()}"}):
        user.more = more
        assert user.pull().stdout == first.stdout
        assert user.plan().returncode == 0
        assert user.run("serve", "-p", "cpu", "--model", "someone/model", "--dry-run").returncode == 0
    assert hub.asked == []


def test_what_was_planned_is_what_is_downloaded(hub: Hub, user: User) -> None:
    """The commit that `main` meant is pinned by the plan: a branch that moves on is not asked for again."""
    assert user.plan().returncode == 0
    hub.asked.clear()
    succeeds(user.pull())
    assert not any(each.path.startswith("/api/models/") for each in hub.asked)


def test_a_commit_that_is_gone_is_replaced_by_what_its_branch_is_now(hub: Hub, user: User) -> None:
    assert user.plan().returncode == 0
    hub.commit = "f" * 40
    done = user.pull()
    assert succeeds(done) == user.cache / "snapshots" / hub.commit
    assert "answers 404" in done.stderr
    assert f"at commit {hub.commit}" in done.stderr


def test_a_download_that_is_cut_off_goes_on_at_that_byte(hub: Hub, user: User) -> None:
    hub.cuts = 2
    succeeds(user.pull())
    assert user.files() == WANTED
    size = len(WEIGHTS)
    assert starts_of(hub) == [0, size // 2, size // 2 + (size - size // 2) // 2]


def test_a_killed_download_is_taken_up_where_it_was(hub: Hub, user: User) -> None:
    """Half a model must never be taken for the model."""
    hub.stalls = 1
    with user.start("pull", "someone/model") as killed:
        wait_for(user.has_received)
        killed.kill()
    received = user.partial.stat().st_size
    assert 0 < received < len(WEIGHTS)
    hub.weights_given.set()
    user.more = {"HF_HUB_OFFLINE": "1"}
    assert "is not on this machine" in refusal(user.pull())

    user.more = {}
    hub.asked.clear()
    done = user.pull()
    succeeds(done)
    assert "of them here" in done.stderr
    assert user.files() == WANTED
    assert starts_of(hub) == [received]
    assert not user.partial.exists()


def test_a_hub_that_knows_no_ranges_is_asked_from_the_start(hub: Hub, user: User) -> None:
    hub.has_ranges, hub.cuts = False, 1
    succeeds(user.pull())
    assert user.files() == WANTED


def test_a_connection_over_which_nothing_comes_is_made_anew(hub: Hub, user: User) -> None:
    hub.stalls = 1
    user.more = {"HF_HUB_DOWNLOAD_TIMEOUT": "2"}
    succeeds(user.pull())
    assert user.files() == WANTED
    assert starts_of(hub) == [0, len(WEIGHTS) // 2]


def test_a_hub_that_is_busy_is_waited_for(hub: Hub, user: User) -> None:
    hub.busy = 2
    succeeds(user.pull())
    assert user.files() == WANTED


def test_a_hub_that_stays_busy_is_given_up(hub: Hub, user: User) -> None:
    hub.busy = 100
    message = refusal(user.pull())
    assert "it answers 503 for model.safetensors" in message
    assert not (user.cache / "snapshots").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_with_other_contents_than_listed_is_thrown_away(hub: Hub, user: User, name: str) -> None:
    """Of the weights the hub lists the SHA-256, of a small file git's own checksum."""
    hub.given[name] = b"x" * len(WANTED[name])
    assert f"{name} arrived with other contents than it lists" in refusal(user.pull())
    assert not (user.cache / "snapshots").exists()
    assert not user.partial.exists()
    hub.given.clear()
    succeeds(user.pull())
    assert user.files() == WANTED


def test_a_damaged_beginning_is_fetched_again(hub: Hub, user: User) -> None:
    user.partial.parent.mkdir(parents=True)
    user.partial.write_bytes(b"x" * 1000)
    succeeds(user.pull())
    assert user.files() == WANTED
    assert starts_of(hub) == [1000, 0]


def test_a_login_page_does_not_take_the_place_of_what_came(hub: Hub, user: User) -> None:
    assert user.plan().returncode == 0
    user.partial.parent.mkdir(parents=True)
    user.partial.write_bytes(WEIGHTS[:1000])
    hub.portal = True
    assert "what comes for" in refusal(user.pull())
    assert user.partial.read_bytes() == WEIGHTS[:1000]


def test_a_disk_that_is_too_small_is_known_beforehand(hub: Hub, user: User) -> None:
    hub.listed_sizes["model.safetensors"] = 10**18
    message = refusal(user.pull(), 10)
    assert "needs 1000000000.00 GB more" in message
    assert "HF_HOME" in message
    assert starts_of(hub) == []


_FILLS_UP = """
mount -t tmpfs -o size=8m tmpfs "$HF_HOME" || exit 99
( until [ -s "$PARTIAL" ]; do sleep 0.05; done; cat /dev/zero > "$HF_HOME/others"; touch "$FULL" ) 2> /dev/null &
"$PYTHON" -m serving pull someone/model
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="util-linux is not installed")
def test_a_disk_that_another_program_fills_up(hub: Hub, user: User, tmp_path: Path) -> None:
    """A real one: 8 MB, which are enough for the model alone."""
    home, full = tmp_path / "disk", tmp_path / "full"
    home.mkdir()
    user = User(home, hub.url)
    user.more = {"PARTIAL": str(user.partial), "FULL": str(full), "PYTHON": sys.executable}
    user.more["ONECARD_STATE_DIR"] = str(tmp_path / "state")
    hub.stalls = 1
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", _FILLS_UP]
    with subprocess.Popen(command, env=user.environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: full.exists() or process.poll() is not None)
        hub.weights_given.set()
        done = subprocess.CompletedProcess(command, process.wait(60), "", process.communicate()[1])
    if done.returncode in (1, 99, 127) and "onecard: " not in done.stderr:
        pytest.skip("this machine lets no user mount a file system")
    message = refusal(done, 10)
    assert "No space left on device" in message
    assert "is kept" in message


def test_what_came_before_the_disk_was_full_is_kept(hub: Hub, user: User) -> None:
    """A limit on the size of a file stands for the disk."""
    code = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000));"
        "sys.argv = ['onecard', 'pull', 'someone/model']; runpy.run_module('serving', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], env=user.environment, capture_output=True, text=True)
    message = refusal(done, 10)
    assert "is kept" in message
    assert "HF_HOME" in message
    hub.asked.clear()
    succeeds(user.pull())
    assert user.files() == WANTED
    assert starts_of(hub) == [1_000_000]


def test_a_cache_that_cannot_be_written_is_named(user: User) -> None:
    user.more = {"HF_HOME": "/dev/null/cache"}
    assert "/dev/null/cache" in refusal(user.pull(), 1)


def test_two_at_once_download_once(hub: Hub, user: User) -> None:
    hub.stalls = 1
    with user.start("pull", "someone/model") as one:
        wait_for(user.has_received)
        with user.start("pull", "someone/model") as other:
            assert other.stderr
            assert "Another process downloads someone/model" in other.stderr.readline()
            hub.weights_given.set()
            folders = {process.communicate(timeout=60)[0] for process in (one, other)}
    assert (one.returncode, other.returncode, len(folders)) == (0, 0, 1)
    assert starts_of(hub) == [0]


def test_a_model_without_safetensors_is_refused(hub: Hub, user: User) -> None:
    del hub.files["model.safetensors"]
    message = refusal(user.pull(), 5)
    assert "no *.safetensors" in message
    assert "pickle" in message


def test_a_model_that_no_hub_has(user: User) -> None:
    message = refusal(user.pull("someone/modle"))
    assert message.count("there is no model 'someone/modle'") == 2


def test_modelscope_gives_what_hugging_face_does_not(hub: Hub, user: User) -> None:
    hub.huggingface, hub.modelscope = False, True
    done = user.pull()
    folder = succeeds(done)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == WANTED
    assert "someone/model from ModelScope" in done.stderr
    # What Hugging Face calls `main` is not to be mistaken for it.
    assert not (user.cache / "refs" / "main").exists()
    hub.hangs_up = True
    assert succeeds(user.pull()) == folder
    assert user.plan().returncode == 0


def test_what_modelscope_gives_is_checked(hub: Hub, user: User) -> None:
    hub.huggingface, hub.modelscope = False, True
    hub.given["tokenizer.json"] = b"xx"
    assert "tokenizer.json arrived with other contents" in refusal(user.pull())


def test_a_model_of_ones_own_yaml_is_downloaded_at_its_commit(user: User, tmp_path: Path) -> None:
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(
        f'title: mine\nsource: {{hub: someone/model, revision: "{COMMIT}", publisher: someone, licence: MIT}}\n'
        "served_model_name: [my-model]\ndefault_max_tokens: 16\nlargest_max_tokens: 16\n"
    )
    succeeds(user.pull(str(yaml)))
    assert user.files() == WANTED
