"""Faults, each a line of the package that is changed in a copy: the worlds must find every one of them.

``python -m tests.world --faults`` plants them one after the other, and counts the worlds until one breaks a promise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
MOST = 2_000
"""A fault that is not found in so many worlds shows that the world is too narrow."""


TABLE = Path(__file__).with_name("faults.txt")
"""What the last hunt for all of them found."""


@attrs.frozen
class Fault:
    """A line of a file of the package, and what it is changed into."""

    name: str
    file: str
    line: str
    changed: str


FAULTS = (
    Fault(
        "memory: a claim ignores the lease of another worker",
        "receiver/inboxes/_memory.py",
        "held.token != token and (remaining := held.remaining(now)) > 0:",
        "held.token != token and (remaining := held.remaining(now)) > 1e9:",
    ),
    Fault(
        "memory: what was handled is forgotten after an hour",
        "receiver/inboxes/_memory.py",
        "return handled is not None and handled + self._remember > horizon",
        "return handled is not None and handled + 3_600 > self._retention.read()[0]",
    ),
    Fault(
        "memory: a worker takes what another one has claimed",
        "receiver/inboxes/_memory.py",
        "if is_held or (again and not retries) or",
        "if (again and not retries) or",
    ),
    Fault(
        "memory: what was handled is stored again when it comes again",
        "receiver/inboxes/_memory.py",
        "        if key in self._waiting or self._is_done(key):\n            return False",
        "        if key in self._waiting:\n            return False",
    ),
    Fault(
        "memory: what was handled still waits",
        "receiver/inboxes/_memory.py",
        "        self._waiting.pop(key, None)\n        self._failures.pop(key, None)\n",
        "        self._failures.pop(key, None)\n",
    ),
    Fault(
        "sqlite: a claim ignores the lease of another worker",
        "receiver/inboxes/_sqlite_statements.sql",
        "-- {live} --\n(token IS NOT NULL AND ends > :now)\n",
        "-- {live} --\n(token IS NOT NULL AND ends > :now + 1e9)\n",
    ),
    Fault(
        "sqlite: what was handled is not recorded",
        "receiver/inboxes/_sqlite_statements.sql",
        "ON CONFLICT (key) DO UPDATE SET handled = 1, failures = 0, unended",
        "ON CONFLICT (key) DO UPDATE SET handled = 0, failures = 0, unended",
    ),
    Fault(
        "sqlite: what was handled is stored again when it comes again",
        "receiver/inboxes/_sqlite_statements.sql",
        "entry_json = excluded.entry_json\nWHERE {open} AND due IS NULL\n",
        "entry_json = excluded.entry_json\nWHERE due IS NULL\n",
    ),
    Fault(
        "sqlite: a worker takes what another one has claimed",
        "receiver/inboxes/_sqlite_statements.sql",
        "due <= :wall AND {may_begin}\n",
        "due <= :wall\n",
    ),
    Fault(
        "sqlite: what was put off is never due again",
        "receiver/inboxes/_sqlite_statements.sql",
        "UPDATE inbox SET due = :wall + :seconds,",
        "UPDATE inbox SET due = :wall + 1e9 * :seconds,",
    ),
    Fault(
        "a claim that another worker holds is good enough",
        "_work/once.py",
        "            if claim.status is ClaimStatus.CLAIMED:\n",
        "            if claim.status is not ClaimStatus.DONE:\n",
    ),
    Fault(
        "an inbox that is away lets the handler run",
        "_work/once.py",
        "                return AttemptEnd(AttemptResult.UNAVAILABLE, error=exc)\n            if claim",
        "                return None\n            if claim",
    ),
    Fault(
        "a failure counts as handled",
        "_work/once.py",
        "        return AttemptEnd(AttemptResult.FAILED, error=failure)",
        "        return AttemptEnd(AttemptResult.HANDLED, error=failure)",
    ),
    Fault(
        "what was handled is not completed",
        "_work/once.py",
        "            recorded = await self.call(self.units.inbox.complete, self.key, self.token)",
        "            recorded = True",
    ),
    Fault(
        "a delivery whose handler failed is acknowledged",
        "receiver/_results.py",
        'Result.FAILED: Meaning(500, "failed")',
        'Result.FAILED: Meaning(200, "failed")',
    ),
    Fault(
        "a delivery whose handler took too long is acknowledged",
        "receiver/_results.py",
        'Result.TIMED_OUT: Meaning(500, "failed")',
        'Result.TIMED_OUT: Meaning(200, "failed")',
    ),
    Fault(
        "a delivery is acknowledged while the inbox is away",
        "receiver/_results.py",
        "Result.UNAVAILABLE: Meaning(503)",
        "Result.UNAVAILABLE: Meaning(200)",
    ),
    Fault(
        "a delivery is acknowledged while another worker has it",
        "receiver/_results.py",
        "Result.BUSY: Meaning(503)",
        "Result.BUSY: Meaning(200)",
    ),
    Fault(
        "a delivery that comes to a closing receiver is acknowledged",
        "receiver/_results.py",
        'Result.CLOSED: Meaning(503, "ends")',
        'Result.CLOSED: Meaning(200, "ends")',
    ),
    Fault(
        "a delivery with a wrong signature is acknowledged",
        "receiver/_results.py",
        "Result.REJECTED: Meaning(401)",
        "Result.REJECTED: Meaning(200)",
    ),
    Fault(
        "a signature need not fit",
        "_signing/signature.py",
        "    return None if matched else _explain_mismatch(entries)",
        "    return None if entries else _explain_mismatch(entries)",
    ),
    Fault(
        "a delivery that could not be stored is acknowledged",
        "receiver/_backlog.py",
        "            return Outcome(Result.UNAVAILABLE, delivery, error=exc, retry_after=RETRY_SOON)",
        "            return Outcome(Result.DEFERRED, delivery)",
    ),
    Fault(
        "one attempt without an end quarantines a delivery",
        "receiver/_trying.py",
        "    if entry.unended >= MOST_UNENDED or",
        "    if entry.unended >= 1 or",
    ),
    Fault(
        "one failure quarantines a deferred delivery",
        "receiver/_trying.py",
        "    return entry.failures >= _LEAST_FAILURES and lasts",
        "    return entry.failures >= 1 or lasts",
    ),
    Fault(
        "a recovery leaves the events alone that no message has",
        "replay/_recovery.py",
        "            if first.finished:\n                events =",
        "            if not first.finished:\n                events =",
    ),
    Fault(
        "a recovery is finished although events are in the quarantine",
        "replay/_recovered.py",
        "        if self.quarantined:\n            fix",
        "        if self.quarantined > 1e9:\n            fix",
    ),
    Fault(
        "a recovery is finished although events wait",
        "replay/_recovered.py",
        "        if self.waiting.count:\n",
        "        if self.waiting.count > 1e9:\n",
    ),
    Fault(
        "a recovery takes what another worker has for handled",
        "replay/targets/_adapters.py",
        "        return ALONE if outcome.reason == ALONE else BUSY",
        '        return ALONE if outcome.reason == ALONE else "handled-before"',
    ),
    Fault(
        "a recovery reads one page of each list",
        "replay/_reading.py",
        "        while now.next_url is not None:",
        "        while now.next_url is not None and not now.pages:",
    ),
    Fault(
        "a recovery is finished although the webhook is disabled",
        "replay/_recovered.py",
        "        status = find_status_problem(self.webhook, None)\n",
        "        status = None\n",
    ),
    Fault(
        "a recovery takes what Basiq says that it delivered for handled",
        "services/coverage.py",
        "    return max(times) < recording_since + _SKEW if times else None\n",
        "    return True\n",
    ),
    Fault(
        "a recovery reads back to the last one, and no further",
        "services/coverage.py",
        "        return latest(min(now - LISTED, self.read_up_to) - ATTEMPTED, self.begins)",
        "        return latest(self.read_up_to, self.begins)",
    ),
    Fault(
        "doctor finds no undelivered messages",
        "services/problems.py",
        "    if found.undelivered:\n",
        "    if found.undelivered > 1e9:\n",
    ),
    Fault(
        "doctor finds no events without a message",
        "services/problems.py",
        "    if found.never_sent:\n",
        "    if found.never_sent > 1e9:\n",
    ),
    Fault(
        "doctor finds nothing in the quarantine",
        "services/problems.py",
        "    if found.quarantined:\n",
        "    if found.quarantined > 1e9:\n",
    ),
    Fault(
        "doctor finds no disabled webhook",
        "services/problems.py",
        "    if status is not None:\n        yield status\n",
        "    if status is not None and found is None:\n        yield status\n",
    ),
    Fault(
        "doctor has no line for what was not delivered",
        "cli/_lines.py",
        '    "undelivered": lambda problem, found, given: _recover(found, given),\n',
        '    "undelivered": lambda problem, found, given: _line("webhooks remake", found.webhook.id),\n',
    ),
    Fault(
        "a replay counts what failed as handled",
        "replay/_quarantine.py",
        "        await calls.quarantine(entry.key, self._token, entry)",
        "        await calls.complete(entry.key, self._token)",
    ),
    Fault(
        "a job that posts takes each response for a success",
        "replay/targets/_http.py",
        "        if 200 <= status <= 299:\n            result =",
        "        if status:\n            result =",
    ),
    Fault(
        "a job that posts begins again after a kill",
        "replay/targets/_adapters.py",
        "        return key if self.job is None else key_of_post(self.job, key)",
        '        return key if self.job is None else key_of_post(f"{self.job} {id(self)}", key)',
    ),
    Fault(
        "sql: a service takes what waits for another one",
        "receiver/inboxes/_sql_statements.sql",
        "event.service = :service AND event.queue = 'waiting'",
        "event.service = event.service AND event.queue = 'waiting'",
    ),
    Fault(
        "recover ends with 0 although something is left",
        "cli/_recover.py",
        'ended.exit(DONE if row["finished"] else NO_ANSWER',
        "ended.exit(DONE if row else NO_ANSWER",
    ),
    Fault(
        "doctor ends with 0 although messages were not delivered",
        "cli/_doctor.py",
        "            found_codes.update(each.code for each in diagnosis.problems)\n",
        '            found_codes.update(each.code for each in diagnosis.problems if each.code != "undelivered")\n',
    ),
    Fault(
        "a replay ends with 0 although some failed",
        "cli/_replay.py",
        "    stays = left or report.failed or report.waiting",
        "    stays = report.waiting",
    ),
    Fault(
        "a retry ends with 0 although some failed again",
        "cli/_quarantine.py",
        "    return DONE if gone else WRONG\n",
        "    return DONE if gone or watch.left else WRONG\n",
    ),
    Fault(
        "what waits is shown, and the exit code is 0",
        "cli/_quarantine.py",
        "    return WRONG if count else DONE\n",
        "    return DONE\n",
    ),
    Fault(
        "a receiver is ready although its inbox is away",
        "receiver/_receiver.py",
        "        return not self._lifecycle.closed and await self._readiness.ask()\n",
        "        return not self._lifecycle.closed\n",
    ),
    Fault(
        "nothing is begun once first attempts have failed",
        "receiver/_breaker.py",
        "            free = min(free, int(running <= running_again) + may_try)\n",
        "            free = 0\n",
    ),
    Fault(
        "a worker is not told of what was stored",
        "receiver/_worker.py",
        '"""Begin with a delivery that was stored."""\n        self._news.set()\n',
        '"""Begin with a delivery that was stored."""\n',
    ),
    Fault(
        "a worker that is to stop is not woken",
        "receiver/_worker.py",
        "        self._news.set()\n        try:\n",
        "        try:\n",
    ),
    Fault(
        "a log shows the secret",
        "receiver/_attempts.py",
        '            "the handler of delivery %r %s%s",\n',
        '            "whsec_ the handler of delivery %r %s%s",\n',
    ),
    Fault(
        "the text of a failure shows the parameters of a statement",
        "_work/failures.py",
        "    found = leaves(hide_parameters(error))\n",
        "    found = leaves(error)\n",
    ),
    Fault(
        "forget says that it is done although what waits names the user",
        "_work/inbox_calls.py",
        "        if waiting:\n            raise InboxError(\n",
        "        if waiting < 0:\n            raise InboxError(\n",
    ),
    Fault(
        "forget leaves what jobs that post have quarantined",
        "_work/inbox_calls.py",
        "        async with aclosing(self.read_quarantine(ALL)) as entries:\n",
        "        async with aclosing(self.read_quarantine()) as entries:\n",
    ),
    Fault(
        "secrets are read once, and then only if a signature does not fit",
        "receiver/_secrets.py",
        "        return not 0 < self._look_at - self._clock() <= _LONGEST_USE\n",
        "        return self._look_at == math.inf\n",
    ),
    Fault(
        "a receiver forgets its secrets when they cannot be read again",
        "receiver/_secrets.py",
        "            self._look_at = now + _AFTER_FAILURE\n",
        "            self._look_at, self.keys = now + _AFTER_FAILURE, SigningKeys()\n",
    ),
    Fault(
        "each write to a file of secrets prolongs all former ones",
        "_signing/secret_file.py",
        "{(end or until).isoformat()}",
        "{until.isoformat()}",
    ),
    Fault(
        "an update and a reactivation do not store the new secret",
        "services/webhooks.py",
        "        return await keeper.keep(await self._write(self._at(webhook_id), fields))\n",
        "        return await self._write(self._at(webhook_id), fields)\n",
    ),
    Fault(
        "what kills its process is tried for ever",
        "_work/protocol.py",
        "MOST_UNENDED = 3\n",
        "MOST_UNENDED = 1_000\n",
    ),
    Fault(
        "sqlite: calls of a batch that was rolled back keep their results",
        "_storage/sqlite.py",
        "            for each in calls:\n                each.result = failure\n",
        "            for each in calls:\n                each.result = each.result or failure\n",
    ),
    Fault(
        "an oldest-first list ends at a page that is old",
        "_wire/order.py",
        '    if since is None or order != "newest-first":\n',
        '    if since is None or order == "unknown":\n',
    ),
    Fault(
        "a recovery handles the event of a message that it passes over",
        "replay/_recovery.py",
        "            passed.extend([digest_of(message_key(message.raw))])  # its event is passed over too\n",
        "",
    ),
    Fault(
        "the deletion of a webhook that is not there succeeds",
        "services/webhooks.py",
        "        if response.status == 404 and response.repeated:\n",
        "        if response.status == 404:\n",
    ),
    Fault(
        "what waits was handled, says inbox get",
        "cli/_waiting.py",
        '(("waiting", calls.read_waiting()), ("quarantined", calls.read_quarantine(keys[key])))',
        '(("quarantined", calls.read_quarantine(keys[key])),)',
    ),
    Fault(
        "what leaves the breaker wakes nothing",
        "replay/_throttle.py",
        "        self._inside -= 1\n        self._changed.set()\n",
        "        self._inside -= 1\n",
    ),
    Fault(
        "a resend ends at the first id that Basiq does not have",
        "cli/_history.py",
        "            except (BadRequestError, NotFoundError, TargetError, TransportError) as exc:\n",
        "            except (TargetError, TransportError) as exc:\n",
    ),
    Fault(
        "a job gives a deferred handler the time of a live one",
        "receiver/_attempts.py",
        "            units = dispatcher.deferred_units if route.deferred else dispatcher.units\n",
        "            units = dispatcher.units\n",
    ),
)


def plant(fault: Fault, folder: Path) -> None:
    """Write a copy of the package with the fault into a folder."""
    shutil.copytree(ROOT / "basiq_async", folder / "basiq_async", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "basiq_async" / fault.file
    source = path.read_text()
    assert source.count(fault.line) == 1, f"{fault.name}: {fault.file} has {source.count(fault.line)} of its line"
    path.write_text(source.replace(fault.line, fault.changed))


def find(fault: Fault, most: int = MOST, first: int = 0) -> tuple[int, str] | None:
    """Return how many worlds a fault needs, and the promise that the last one broke; None if none did."""
    with tempfile.TemporaryDirectory(prefix="basiq-world-") as name:
        plant(fault, Path(name))
        command = [sys.executable, "-m", "tests.world", "--until-broken"]
        done = subprocess.run(
            [*command, "--seeds", str(most), "--first", str(first)],
            cwd=name,
            env={**os.environ, "PYTHONPATH": f"{name}{os.pathsep}{ROOT}", "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
    if not done.returncode:
        return None
    seed, tab, broken = done.stdout.strip().partition("\t")
    return (int(seed) - first + 1, broken) if tab else (1, done.stderr.strip().splitlines()[-1])


def hunt(names: Sequence[str], *, most: int, workers: int) -> int:
    """Look for the faults whose names begin with one of these, or all, and note it. Return 1 if one is not found."""
    chosen = [each for each in FAULTS if not names or each.name.startswith(tuple(names))]
    missed, table = 0, {line[13:]: line for line in TABLE.read_text().splitlines()[2:]}
    with ThreadPoolExecutor(workers) as pool:
        work = {pool.submit(find, each, most): each for each in chosen}
        for done in as_completed(work):
            fault, found = work[done], done.result()
            missed += found is None
            table[fault.name] = f"{f'not in {most}' if found is None else found[0]:>11}  {fault.name}"
            lines = [table[each.name] for each in FAULTS if each.name in table]
            TABLE.write_text("\n".join([*TABLE.read_text().splitlines()[:2], *lines, ""]))
            print(table[fault.name], flush=True)
            if found is not None:
                print(f"           {found[1][:150]}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} planted faults were found")
    return int(missed > 0)
