"""`deploy/s3-policy.json` allows a worker just the requests that it makes, and no overwriting."""

import json
from fnmatch import fnmatchcase

import pytest

from imagemill.db.storage.probe import PROBE_PREFIX
from imagemill.db.storage.s3 import S3Storage
from tests.helpers.places import ROOT

POLICY = ROOT / "deploy" / "s3-policy.json"

ACTION_OF = {
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "DeleteObject": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
}


@pytest.fixture
def statements() -> list[dict]:
    policy = json.loads(POLICY.read_text())
    assert policy["Version"] == "2012-10-17"
    return policy["Statement"]


def actions_of(statement: dict) -> list[str]:
    action = statement["Action"]
    return [action] if isinstance(action, str) else action


def allowed(statements: list[dict], action: str, resource: str, *, conditional: bool) -> bool:
    """What AWS would say: allowed by one statement and denied by none."""
    matching = [
        statement
        for statement in statements
        if action in actions_of(statement)
        and fnmatchcase(resource, statement["Resource"])
        # The only condition in use: "the header If-None-Match is absent".
        and not (conditional and "Condition" in statement)
    ]
    effects = {statement["Effect"] for statement in matching}
    return effects == {"Allow"}


def test_it_names_only_the_needed_actions(statements: list[dict]):
    named = [action for statement in statements for action in actions_of(statement)]
    assert set(named) == set(ACTION_OF.values())
    for statement in statements:
        assert set(statement) <= {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
        assert statement["Principal"] == {"AWS": "arn:aws:iam::ACCOUNT:role/imagemill-worker"}
        assert statement["Resource"].startswith("arn:aws:s3:::BUCKET")
    assert len({statement["Sid"] for statement in statements}) == len(statements)


def test_a_worker_neither_overwrites_nor_deletes_pictures(statements: list[dict]):
    picture = "arn:aws:s3:::BUCKET/PREFIX/ab/c.png"
    assert allowed(statements, "s3:PutObject", picture, conditional=True)
    assert not allowed(statements, "s3:PutObject", picture, conditional=False)
    assert not allowed(statements, "s3:DeleteObject", picture, conditional=False)
    assert not allowed(
        statements, "s3:GetObject", "arn:aws:s3:::BUCKET/other/c.png", conditional=False
    )


def test_it_allows_every_request_of_a_worker(
    s3_storage: S3Storage, s3_storage_url: str, statements: list[dict]
):
    made: set[tuple[str, str, bool]] = set()

    def note(model, params: dict, **_: object) -> None:
        conditional = "If-None-Match" in params["headers"]
        name = params["url_path"].partition("?")[0].strip("/")
        made.add((model.name, name, conditional))

    s3_storage._client.meta.events.register("before-call.s3", note)
    s3_storage.probe()
    s3_storage.put("ab/c.png", b"pixels", media_type="image/png")
    s3_storage.put("ab/c.png", b"pixels", media_type="image/png")
    s3_storage.get("ab/c.png")
    s3_storage.stat("ab/c.png")
    s3_storage.stat("ab/none.png")

    assert {operation for operation, *_ in made} == set(ACTION_OF)
    prefix = s3_storage_url.rpartition("/")[2]
    for operation, name, conditional in made:
        place = f"/PREFIX{name.removeprefix(prefix)}" if name else ""
        resource = f"arn:aws:s3:::BUCKET{place}"
        action = ACTION_OF[operation]
        assert allowed(statements, action, resource, conditional=conditional), (operation, name)
    deleted = [name for operation, name, _ in made if operation == "DeleteObject"]
    assert all(name.startswith(f"{prefix}/{PROBE_PREFIX}") for name in deleted)
