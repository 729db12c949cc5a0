"""What a child is given to know."""

from __future__ import annotations

import pytest

from harness.processes import clean_env
from harness.processes.environment import SPAWN, TAG, marked, words_of


@pytest.mark.parametrize(
    "name",
    ["OPENAI_API_KEY", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "db_password", "PGPASSWORD", "MY_SECRET",
     "GH_PAT", "APP_CREDENTIALS", "KEY", "SSHPASS", "APIKEY", "AccessToken", "API_KEY_2", "SECRET_KEY_BASE"],
)  # fmt: skip
def test_secrets_are_left_out(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A name with a secret's word in it does not reach a child unless it is named."""
    monkeypatch.setenv(name, "s3cret")

    assert name not in clean_env()
    assert clean_env(keep=[name])[name] == "s3cret"
    assert clean_env({name: "given"})[name] == "given"


@pytest.mark.parametrize("name", ["PATH", "HOME", "KEYBOARD", "TOKENIZERS_PARALLELISM", "PATTERN", "COMPAT", "GIT_ASKPASS"])
def test_the_rest_is_passed_on(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A name that only resembles a secret's is passed on."""
    monkeypatch.setenv(name, "plain")

    assert clean_env()[name] == "plain"


def test_an_address_with_a_password_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password hides in the middle of an address, whatever the variable is called."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@db/x")
    monkeypatch.setenv("PROXY", "http://proxy:3128")

    assert "DATABASE_URL" not in clean_env()
    assert clean_env()["PROXY"] == "http://proxy:3128"


def test_marks_of_the_owner_are_not_passed_on_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner that itself runs in a tree gives its children a mark of their own, after its own ones."""
    monkeypatch.setenv(TAG, "outer")
    monkeypatch.setenv(SPAWN, "a:b")

    inner = marked(clean_env(), tag="inner", word="c", detached=False)
    apart = marked(clean_env(), tag="apart", word="d", detached=True)

    assert TAG not in clean_env()
    assert (inner[TAG], words_of(inner)) == ("inner", ("a", "b", "c"))
    assert words_of(apart) == ("d",)
