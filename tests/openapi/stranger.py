#!/usr/bin/env python3
"""What somebody does who has only /openapi.json: a client generated from it signs up, pages through ten thousand tasks while
others write, retries over a network that loses answers, follows without a WebSocket, rotates and revokes tokens.

    stranger.py FOLDER-OF-THE-CLIENT SERVER
"""
import json
import random
import sys
import threading
import time
import uuid

import httpx

sys.path.insert(0, sys.argv[1])
SERVER = sys.argv[2]

from task_flow_client import AuthenticatedClient, Client
from task_flow_client.api.feed import get_changes, submit_operations
from task_flow_client.api.lists import list_lists
from task_flow_client.api.signing_in import end_token, list_tokens, make_token, refresh_tokens, register, sign_out
from task_flow_client.api.tasks import create_task, list_tasks, update_task
from task_flow_client.models import (
    DueAllDay,
    Logout,
    NewTask,
    NewToken,
    NewTokenScopesItem,
    Operation,
    OperationCommand,
    Operations,
    Priority,
    Problem,
    Refresh,
    Registration,
    TaskFields,
)

TASKS = 10_000


class BadNetwork(httpx.HTTPTransport):
    """The request arrives; of the answers, every third is lost."""

    lost = 0
    chance = random.Random(7)

    def handle_request(self, request):
        answer = super().handle_request(request)
        if self.chance.random() < 1 / 3:
            answer.close()
            BadNetwork.lost += 1
            raise httpx.ReadError("the answer was lost", request=request)
        return answer


def patiently(call, client, **arguments):
    """What a careful script does: sends the same again, after the wait that the answer asks for if there is one."""
    while True:
        try:
            answer = call.sync_detailed(client=client, **arguments)
        except httpx.ReadError:
            continue
        if answer.status_code != 429:
            return answer
        time.sleep(float(answer.headers["retry-after"]))


def signed_in(token, **network):
    return AuthenticatedClient(base_url=SERVER, token=token, httpx_args=network)


def done(what):
    print(f"stranger: {what}", flush=True)


nobody = Client(base_url=SERVER)
account = Registration(email=f"{uuid.uuid4()}@example.org", password="correct horse battery")
tokens = register.sync(client=nobody, body=account)
assert tokens.expires_in > 0, tokens
me = signed_in(tokens.access_token)
done("has an account")

made = []
while len(made) < TASKS:
    operations = []
    for _ in range(100):
        command, task = OperationCommand(), str(uuid.uuid4())
        command["task_create"] = {"task": task, "title": f"Task {len(made)}"}
        operations.append(Operation(id=uuid.uuid4(), command=command))
        made.append(task)
    answer = patiently(submit_operations, me, body=Operations(operations=operations))
    assert len(answer.parsed.results) == 100, answer
done(f"has made {len(made)} tasks")

# Others write while it pages, over a network that loses answers: what is sent again is done once.
bad = signed_in(tokens.access_token, transport=BadNetwork())
seen, page, pages = [], None, 0
beside = {}
while True:
    found = patiently(list_tasks, bad, limit=500, **({"page": page} if page else {})).parsed
    seen += [str(task.id) for task in found.items]
    pages, page = pages + 1, found.next_
    key = str(uuid.uuid4())
    task = NewTask(title=f"beside {pages}", due=DueAllDay.from_dict({"all_day": "2026-12-24"}), priority=Priority.HIGH)
    beside[key] = patiently(create_task, bad, body=task, idempotency_key=key)
    assert beside[key].status_code == 201, beside[key]
    if not page:
        break
assert len(seen) == len(set(seen)) and set(made) <= set(seen), (len(seen), len(set(seen)))
assert BadNetwork.lost > 0
found = patiently(list_tasks, me, filter_="due = 2026-12-24 & priority >= high", limit=500).parsed
titles = sorted(task.title for task in found.items)
assert titles == sorted(f"beside {page + 1}" for page in range(pages)), titles
done(f"has seen each of them once, on {pages} pages; {BadNetwork.lost} answers were lost, nothing was doubled")

task = found.items[0]
tag = f'"{task.version}"'
changed = patiently(update_task, me, id=task.id, body=TaskFields(title="Changed"), if_match=tag)
assert changed.status_code == 200 and changed.parsed.title == "Changed", changed
stale = patiently(update_task, me, id=task.id, body=TaskFields(title="Changed behind its back"), if_match=tag)
assert stale.status_code == 412 and stale.parsed.name == "version_conflict", stale
column = patiently(list_tasks, me, filter_="due < tomorow")
assert column.status_code == 400 and "column 7" in column.parsed.detail, column
done("is told of conflicts, and where a filter is wrong")

# Documents a line: what generators have no word for is read as it comes.
lines = me.get_httpx_client().get("/api/v1/snapshot").text.splitlines()
cursor = next(piece["done"]["cursor"] for piece in (json.loads(line)["snapshot"] for line in lines) if "done" in piece)
waiting = {}
watcher = threading.Thread(target=lambda: waiting.update(changes=patiently(get_changes, me, cursor=cursor, wait=30)))
watcher.start()
later = patiently(create_task, me, body=NewTask(title="Later"))
watcher.join()
changes = waiting["changes"].parsed
assert changes.following.mode == "entries" and changes.entries[0]["seq"] == later.parsed.version, changes
shown = patiently(list_tasks, me, search="later", wait_for=changes.cursor).parsed
assert [task.title for task in shown.items] == ["Later"], shown
done("follows without a WebSocket")

rotated = patiently(refresh_tokens, nobody, body=Refresh(refresh_token=tokens.refresh_token)).parsed
assert rotated.refresh_token != tokens.refresh_token
me = signed_in(rotated.access_token)
wish = NewToken(name="A script", scopes=[NewTokenScopesItem.TASKSREAD], expires_in_days=1)
script = patiently(make_token, me, body=wish).parsed
reader = signed_in(script.token)
assert patiently(list_lists, reader).status_code == 200
refused = patiently(create_task, reader, body=NewTask(title="Not for a reader"))
assert refused.status_code == 403 and refused.parsed.name == "scope_missing", refused
assert [token.name for token in patiently(list_tokens, me).parsed.items] == ["A script"]
assert patiently(end_token, me, id=script.id).status_code == 204
assert patiently(list_lists, reader).status_code == 401
assert patiently(sign_out, me, body=Logout(refresh_token=rotated.refresh_token)).status_code == 204
ended = patiently(list_lists, me)
assert ended.status_code == 401 and isinstance(ended.parsed, Problem) and ended.parsed.name == "signed_out", ended
done("has rotated and revoked its tokens")
