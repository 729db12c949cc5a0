#!/usr/bin/env python3
"""Verify a bundle of a Harness ledger without Harness: python tools/verify_bundle.py FILE…

Needs nothing but Python 3.8. A bundle is JSON lines: a header, events, and a last line with each stream's
end. For every event it recomputes

    digest = SHA-256(salt + data)                     skipped where the payload was erased
    hash   = SHA-256(fields)                          with `prev` the hash of the event before

where fields are, each as its length in bytes, a colon and its bytes: stream, type, actor, tenant, then
"seq,ts,schema"; then parent and key in the same way or "-" for none; then the 32 bytes of digest and of prev.
Exit code 0: everything verifies. 1: it does not, and each line of output says where and why. 2: no bundle.
"""

import hashlib
import json
import sys


def text(value):
    data = value.encode("utf-8")
    return b"%d:%b" % (len(data), data)


def optional(value):
    return b"-" if value is None else text(value)


def hash_of(event, digest, prev):
    numbers = b"%d,%d,%d" % (event["seq"], event["ts"], event["schema"])
    names = b"".join(text(event[name]) for name in ("stream", "type", "actor", "tenant"))
    fields = names + b"%d:%b" % (len(numbers), numbers) + optional(event["parent"]) + optional(event["key"]) + digest + prev
    return hashlib.sha256(fields).hexdigest()


def check(event, last):
    """The first thing that is wrong with an event that follows `last`, or None."""
    seq, prev = last
    if event["seq"] != seq + 1:
        return "gap: expected %d" % (seq + 1)
    if event["prev"] != prev:
        return "rewritten: it does not follow the event before"
    digest = bytes.fromhex(event["digest"])
    if event["data"] is not None:
        salted = bytes.fromhex(event["salt"]) + event["data"].encode("utf-8")
        if hashlib.sha256(salted).digest() != digest:
            return "changed: the payload is not the one that was recorded"
    if hash_of(event, digest, bytes.fromhex(event["prev"])) != event["hash"]:
        return "changed: a field is not the one that was recorded"
    return None


def verify(lines):
    """Give (problems, events, streams); raises ValueError or KeyError if it is no bundle."""
    header = json.loads(lines[0])
    if header.get("format") != "harness.bundle" or header.get("version") != 1:
        raise ValueError("not a bundle of version 1")
    problems, last, count, ends = [], {}, 0, None
    for number, line in enumerate(lines[1:], start=2):
        event = json.loads(line)
        if ends is not None:
            raise ValueError("line %d follows the end" % number)
        if "ends" in event:
            ends = event["ends"]
            continue
        stream = event["stream"]
        wrong = check(event, last.get(stream, (0, "00" * 32)))
        if wrong:
            problems.append("%s#%s (line %d): %s" % (stream, event["seq"], number, wrong))
        last[stream] = (event["seq"], event["hash"])
        count += 1
    if ends is None:
        problems.append("truncated: the bundle has no last line")
    for stream in sorted(set(last) | set(ends or ())):
        end = (ends or {}).get(stream)
        if ends is not None and (end is None or last.get(stream) != (end["seq"], end["hash"])):
            problems.append("%s: truncated or rewritten: it does not end where the last line says" % stream)
    return problems, count, len(last)


def main(paths):
    if not paths:
        print(__doc__)
        return 2
    worst = 0
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                lines = [line for line in file.read().split("\n") if line.strip()]
            problems, events, streams = verify(lines)
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            print("%s: no bundle: %s" % (path, error), file=sys.stderr)
            return 2
        for problem in problems:
            print("%s: %s" % (path, problem))
        if problems:
            worst = 1
        else:
            print("%s: verified, %d events in %d streams" % (path, events, streams))
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
