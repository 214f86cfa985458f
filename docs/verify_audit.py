#!/usr/bin/env python3
"""Checks an export of the audit log (see audit.md): verify_audit.py < export; exit status 1 when it is broken."""
import hashlib, json, sys

def net(*texts):  # netstrings: length in bytes, colon, text, comma
    return b"".join(b"%d:%s," % (len(t.encode()), t.encode()) for t in map(str, texts))

previous, sequence = "0" * 64, 0
for line in sys.stdin:
    if not line.startswith("data:") or '"hash"' not in line:
        continue
    e = json.loads(line[5:])["entry"]
    at = e["recorded_at"]  # always six digits of a second in the hash
    at = at[:19] + "." + (at[20:-1] + "000000")[:6] + "Z"
    target = [part for field in sorted(e["target"]) for part in (field, e["target"][field])]
    encoded = net(e["previous_hash"], e["sequence"], e["id"], at, e["actor"], len(e["roles"]), *e["roles"], e["procedure"], len(e["target"]),
                  *target, e["request_hash"], e["outcome"], e["reason"], e["action_id"], e["trace_id"])
    if sequence == 0 and int(e["sequence"]) > 1:  # an export from the middle: trust its first link
        previous, sequence = e["previous_hash"], int(e["sequence"]) - 1
    sequence += 1
    if (int(e["sequence"]), e["previous_hash"], e["hash"]) != (sequence, previous, hashlib.sha256(encoded).hexdigest()):
        sys.exit("broken at entry %d" % sequence)
    previous = e["hash"]
print("intact up to entry %d, head %s" % (sequence, previous))
