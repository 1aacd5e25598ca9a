"""A Hugging Face Hub for uploads, on loopback: the endpoints that `huggingface_hub` really calls.

Repositories with branches, preupload, the LFS batch, uploads by hash, and commits as lines of
JSON. Files whose suffix is in `LARGE` go through LFS, as by the Hub's own `.gitattributes`.
Source: huggingface_hub 2.4 (hf_api.py, _commit_api.py, lfs.py).
"""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

LARGE = {".png", ".jpg", ".webp", ".tar", ".parquet"}
PAGE = 3
"""Entries in one page of a tree: few, so that every test turns pages."""


@dataclass(kw_only=True)
class Repository:
    private: bool
    branches: dict[str, dict[str, bytes]] = field(
        default_factory=lambda: {"main": {".gitattributes": b"*.png filter=lfs\n"}}
    )
    commits: list[list[str]] = field(default_factory=list)
    """The paths of each commit."""


@dataclass(kw_only=True)
class Hub:
    """What the Hub holds. `fault` sees each request and may answer it in the Hub's stead."""

    user: str = "me"
    token: str = "hf_writes"
    readers: tuple[str, ...] = ("hf_reads",)
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    puts: list[str] = field(default_factory=list)
    """The hashes of the objects that were uploaded."""
    requests: list[str] = field(default_factory=list)
    fault: Callable[[Request], Response | None] = lambda _request: None
    url: str = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    config = uvicorn.Config(_app(hub), host="127.0.0.1", port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    hub.url = f"http://127.0.0.1:{socket.getsockname()[1]}"
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield hub
    finally:
        server.should_exit = True
        thread.join()
        socket.close()


def _app(hub: Hub) -> Starlette:
    repository = "/api/datasets/{user}/{name}"
    routes = [
        Route("/api/repos/create", _create, methods=["POST"]),
        Route("/api/validate-yaml", _validate_yaml, methods=["POST"]),
        Route(repository, _info),
        Route(repository + "/revision/{branch}", _info),
        Route(repository + "/branch/{branch}", _branch, methods=["POST"]),
        Route(repository + "/tree/{branch}", _tree),
        Route(repository + "/preupload/{branch}", _preupload, methods=["POST"]),
        Route(repository + "/commit/{branch}", _commit, methods=["POST"]),
        Route("/datasets/{user}/{name}.git/info/lfs/objects/batch", _batch, methods=["POST"]),
        Route("/lfs/{oid}", _put, methods=["PUT"]),
        Route("/lfs/{oid}/verify", _verify, methods=["POST"]),
    ]
    app = Starlette(routes=[_guarded(route) for route in routes])
    app.state.hub = hub
    return app


def _guarded(route: Route) -> Route:
    async def endpoint(request: Request) -> Response:
        hub: Hub = request.app.state.hub
        hub.requests.append(f"{request.method} {request.url.path}")
        fault = hub.fault(request)
        if fault is not None:
            return fault
        if not request.url.path.startswith("/lfs/") or request.method == "POST":
            token = request.headers.get("authorization", "").removeprefix("Bearer ")
            if token not in (hub.token, *hub.readers):
                return _error(401, "Invalid credentials in Authorization header")
            request.state.writes = token == hub.token
        answer: Response = await route.endpoint(request)
        return answer

    return Route(route.path, endpoint, methods=list(route.methods or ["GET"]))


def _hub(request: Request) -> Hub:
    hub: Hub = request.app.state.hub
    return hub


def _repository(request: Request) -> Repository | None:
    name = f"{request.path_params['user']}/{request.path_params['name']}"
    return _hub(request).repositories.get(name)


def _files(request: Request) -> dict[str, bytes] | None:
    found = _repository(request)
    return None if found is None else found.branches.get(request.path_params.get("branch", "main"))


def _error(status: int, message: str, code: str = "") -> Response:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return JSONResponse({"error": message}, status_code=status, headers=headers)


def _missing(request: Request) -> Response:
    if _repository(request) is None:
        return _error(404, "Repository not found", "RepoNotFound")
    return _error(404, "Invalid rev id", "RevisionNotFound")


async def _create(request: Request) -> Response:
    hub, asked = _hub(request), await request.json()
    owner = asked.get("organization") or hub.user
    name = f"{owner}/{asked['name']}"
    if not request.state.writes or owner != hub.user:
        return _error(403, f"You don't have the rights to create a dataset under {owner}")
    url = {"url": f"{hub.url}/datasets/{name}"}
    if name in hub.repositories:
        return JSONResponse({"error": "You already created this dataset repo"} | url, 409)
    assert asked["type"] == "dataset"
    hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
    return JSONResponse(url)


async def _validate_yaml(request: Request) -> Response:
    asked = await request.json()
    try:
        header = yaml.safe_load(asked["content"].split("---\n")[1])
        assert isinstance(header.get("license", ""), str | list)
        assert all(isinstance(tag, str) for tag in header["tags"])
    except (AssertionError, IndexError, AttributeError, yaml.YAMLError) as error:
        return JSONResponse({"errors": [{"message": f"bad metadata: {error}"}]}, 400)
    return JSONResponse({"errors": [], "warnings": []})


async def _info(request: Request) -> Response:
    found, files = _repository(request), _files(request)
    if found is None or files is None:
        return _missing(request)
    name = f"{request.path_params['user']}/{request.path_params['name']}"
    return JSONResponse({"id": name, "private": found.private, "sha": _sha(found)})


async def _branch(request: Request) -> Response:
    found, branch = _repository(request), request.path_params["branch"]
    if found is None:
        return _missing(request)
    if not request.state.writes:
        return _error(403, "You need write access")
    if branch in found.branches:
        return _error(409, "Reference already exists")
    found.branches[branch] = dict(found.branches["main"])
    return JSONResponse({})


async def _tree(request: Request) -> Response:
    files = _files(request)
    if files is None:
        return _missing(request)
    after = request.query_params.get("cursor", "")
    names = [name for name in sorted(files) if name > after]
    entries = [
        {"type": "directory", "path": "folder", "oid": "0" * 40},
        *(_entry(name, files[name]) for name in names[:PAGE]),
    ]
    headers = {}
    if len(names) > PAGE:
        following = request.url.include_query_params(cursor=names[PAGE - 1])
        headers["Link"] = f'<{following}>; rel="next"'
    return JSONResponse(entries, headers=headers)


def _entry(name: str, body: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(body), "oid": _git(body)}
    if PurePosixPath(name).suffix in LARGE:
        oid = hashlib.sha256(body).hexdigest()
        entry["lfs"] = {"oid": oid, "size": len(body), "pointerSize": 130}
    return entry


async def _preupload(request: Request) -> Response:
    files, asked = _files(request), await request.json()
    if files is None:
        return _missing(request)
    if not request.state.writes:
        return _error(403, "You need write access")
    answers = []
    for each in asked["files"]:
        large = PurePosixPath(each["path"]).suffix in LARGE
        answer = {"path": each["path"], "shouldIgnore": False}
        answer["uploadMode"] = "lfs" if large else "regular"
        body = files.get(each["path"])
        if body is not None:
            answer["oid"] = hashlib.sha256(body).hexdigest() if large else _git(body)
        answers.append(answer)
    return JSONResponse({"files": answers})


async def _batch(request: Request) -> Response:
    hub, asked = _hub(request), await request.json()
    assert asked["operation"] == "upload"
    objects = []
    for each in asked["objects"]:
        if each["oid"] not in hub.objects:
            actions = {
                "upload": {"href": f"{hub.url}/lfs/{each['oid']}", "header": {}},
                "verify": {"href": f"{hub.url}/lfs/{each['oid']}/verify", "header": {}},
            }
            each = {**each, "actions": actions}  # noqa: PLW2901
        objects.append(each)
    return JSONResponse({"transfer": "basic", "objects": objects})


async def _put(request: Request) -> Response:
    hub, body = _hub(request), await request.body()
    oid = request.path_params["oid"]
    if hashlib.sha256(body).hexdigest() != oid:
        return _error(400, "XAmzContentSHA256Mismatch")
    hub.objects[oid] = body
    hub.puts.append(oid)
    return Response()


async def _verify(request: Request) -> Response:
    asked = await request.json()
    body = _hub(request).objects.get(asked["oid"])
    if body is None or len(body) != asked["size"]:
        return _error(422, "no such object")
    return JSONResponse({})


async def _commit(request: Request) -> Response:
    hub, found, files = _hub(request), _repository(request), _files(request)
    if found is None or files is None:
        return _missing(request)
    lines = [json.loads(line) for line in (await request.body()).splitlines()]
    assert lines[0]["key"] == "header"
    assert lines[0]["value"]["summary"]
    changed = dict(files)
    for line in lines[1:]:
        path = line["value"]["path"]
        if line["key"] == "file":
            changed[path] = base64.b64decode(line["value"]["content"])
        elif line["key"] == "lfsFile":
            if line["value"]["oid"] not in hub.objects:
                return _error(400, f"LFS pointer of {path} points to no file")
            changed[path] = hub.objects[line["value"]["oid"]]
        elif line["key"] == "deletedFile":
            del changed[path]
        else:
            return _error(400, f"unknown operation {line['key']}")
    found.branches[request.path_params["branch"]] = changed
    found.commits.append([line["value"]["path"] for line in lines[1:]])
    commit = f"{request.url.path.removeprefix('/api')}/{_sha(found)}"
    return JSONResponse({"commitUrl": f"{hub.url}{commit}", "commitOid": _sha(found)})


def _sha(repository: Repository) -> str:
    return hashlib.sha1(str(len(repository.commits)).encode()).hexdigest()


def _git(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%s" % (len(body), body)).hexdigest()
