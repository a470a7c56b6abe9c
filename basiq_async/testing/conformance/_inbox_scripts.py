"""The promises of an inbox as scripts: calls of which a model knows the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_TEXT = """
check() accepts a storage that works, and changes nothing
    claim a; check a; check b; claim b; complete a
A free key can be claimed, and then another worker's claim is BUSY
    claim a; claim b
The holder's token may claim a key again, and its lease begins anew
    claim_shortly a; claim a; pass a; claim b
A completed key stays completed for all workers, and is recorded once
    claim a; complete a; claim b; claim a; complete a; complete b; known a; known b
A released key is free at once, and a second release() changes nothing
    claim a; release a; release a; claim b; release a; claim a
Only the holder can release or complete
    claim a; release b; claim b; complete b; known a; known b
release() does not change a completed key
    claim a; complete a; release a; known a; known b; claim b
After a lease has run out, another worker can claim the key, and the former holder changes nothing
    die a; claim b; release a; claim a; complete a; known a; known b; complete b
A worker whose lease has run out can still complete the key if no other worker claimed it
    die a; complete a; claim b
complete() of many keys records each that is free or its own, and leaves what another holds or has handled
    claim b 1; complete_both a; known b; claim a; claim a 1; complete b 1
    claim a; complete b 1; complete_both a; known b; claim b
    set_aside b; quarantine b 1; complete_both a; known b; quarantined b; claim b
known() has what was handled or set aside, but not what was claimed or released
    known b; claim a; known b; release a; known b; claim a; fail a; known b; complete a; set_aside a 1; known b
fail() releases the claim and counts the failure, until the key is completed
    claim a; fail a; known b; claim a; fail a; claim b; fail b; claim a; release a; claim a; fail a; known a;
    claim a; complete a; fail a; claim b
fail() by a former holder counts the failure, and the new holder's claim stays
    die a; claim b; fail a; claim a; fail b
A quarantined key counts as handled, and all workers can read its delivery unchanged
    claim a; quarantine a; claim b; known a; known b; quarantined b; quarantine a; fail b; quarantined b;
    complete a; quarantined b
Only the holder can quarantine a key, and a completed key cannot be quarantined
    claim a; quarantine b; quarantined b; complete a; quarantine a; quarantined b
One worker at a time can claim a quarantined key for a retry, and complete() removes it from the quarantine
    retry a; claim a; quarantine a; retry a; retry b; claim b; quarantined b; complete b; complete a;
    quarantined b; known a; known b; claim b
After a retry that was released or failed, the quarantined delivery is unchanged
    claim a; quarantine a; retry a; release a; quarantined b; claim b; retry a; fail a; quarantined b; claim b;
    retry b; quarantine b; quarantined b
After a retry whose lease expired, the quarantined delivery is unchanged
    claim a; quarantine a; die_in_retry a; quarantined b; claim b; retry b
drop_quarantined() removes a quarantined delivery, and its key stays handled
    drop a; claim a; quarantine a; drop b; quarantined b; claim b
What was set aside and not acknowledged can be claimed, and stays in the quarantine until it is completed
    set_aside a; known b; claim b; quarantined b; release b; quarantined b; claim b; fail b; known b;
    quarantined b; claim b; complete b; quarantined b; claim a
Of what was set aside, either a live attempt or a retry is under way: the other is BUSY
    set_aside a; claim a; retry b; complete b; release a; retry b; claim a; set_aside a; complete b; quarantined b
A later quarantine() replaces what was set aside, and one that is acknowledged ends the attempts
    set_aside a; set_aside b; quarantined b; claim a; quarantine a; quarantined b; claim b; drop a
A worker whose lease ran out can complete what was set aside meanwhile, and it leaves the quarantine
    die a; set_aside b; complete a; quarantined b; claim b
    die a; quarantine b; complete a; quarantined b; claim b
A cancelled call was carried out completely or not at all, wherever it was cancelled
    cancelled claim a; release a; claim b; release b
    claim a; cancelled complete a; complete a; known b
    cancelled complete_both a; complete_both a; known b
    claim a; cancelled fail a; release a; claim b; fail b
    cancelled quarantine a; release a; known b; quarantined b; quarantine a; cancelled retry a; release a; retry b;
    release b
    quarantine a; cancelled drop a; drop a; known b; quarantined b
    set_note a; cancelled set_note a; note a; note b
store() is False for what was handled or acknowledged in the quarantine, and True for what a job set aside
    complete a; quarantine a 1; store b; store b 1; waiting a; quarantined b; claim_due b
    set_aside a; store b; waiting a; quarantined b; claim_due b
put_off() ends the claim: the delivery is due again after so many seconds, as it was given, and not before
    store a; claim_due a; put_off a; claim_due b; put_off_for_long b; claim_due a; list_waiting b; claim a;
    put_off_shortly a; pass a; claim_due a; put_off_for_long a; claim b; complete b; put_off a
While one token holds a delivery that waits, another one cannot claim it, put it off or complete it
    store a; claim_due a; claim b; claim_due b; put_off_for_long b; complete b; list_waiting b; release b; claim b;
    release a; claim b; claim_due a; put_off_for_long a; release b; claim_due a
put_off() of a key that does not wait is False, and records nothing
    claim a; put_off a; known a; known b; waiting a; waiting b
put_off() of a key that does not wait leaves its lease
    claim_shortly a; claim a; put_off a; claim b
complete(), of one or many, and quarantine() end the wait; release(), fail() and a retry do not
    store a; claim_due a; release a; retry a; drop a; quarantined b; claim_due a; fail a; waiting a; claim_due a;
    complete a; waiting a; waiting b; list_waiting b; known b; claim b; store b
    store a; complete_both a; waiting a; waiting b; list_waiting b; known b; claim b; store b
    store a; quarantine a; waiting a; waiting b; list_waiting b; known b; claim b; store b
What waits and a job sets aside waits no longer; and what was dropped from the quarantine cannot be stored
    store a; set_aside b; waiting a; quarantined b; drop b; store b; waiting a
A claimed key can be stored: the claim stays, and its complete() ends the wait
    claim a; store b; claim b; claim_due b; complete a; waiting a
    set_aside a; claim a; store b; claim_due b; release a; claim_due b
A delivery whose claim died is due again; its former holder can put it off until another claims it
    store a; die_of_due a; put_off a; die_of_due a; claim_due b; put_off_for_long a; complete b; waiting a
A cancelled call about what waits was carried out completely or not at all, wherever it was cancelled
    cancelled store a; store a; waiting b; cancelled claim_due a; release a; claim_due b;
    cancelled put_off_for_long b; put_off b; waiting b; claim a; complete a
"""

INTERRUPTED: Sequence[str] = (
    "claim a; complete a; ...; known b; claim b",
    "complete_both a; ...; known b",
    "fail a; ...; fail b",
    "quarantine a; set_aside a 1; ...; quarantined b; known b; claim b; claim b 1",
    "set_note a; ...; note b",
    "store a; ...; waiting b; list_waiting b; known b; claim_due b",
    "store a; store a 1; claim_due a; put_off_for_long a; ...; waiting b; list_waiting b; known b; claim_due b",
)
"""What is recorded before something happens to the storage or to the process, and is there afterwards."""


def _read() -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    promise = script = ""
    for line in _TEXT.strip().splitlines():
        if not line.startswith(" "):
            promise = line
            continue
        script = f"{script} {line.strip()}".strip()
        if not script.endswith(";"):
            found.setdefault(promise, []).append(script)
            script = ""
    return found


SCRIPTS = _read()
"""The scripts of each promise. ``Workers.follow`` says what they mean."""
