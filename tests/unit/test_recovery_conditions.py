"""Conditions: what is refused when it is registered, and that nothing but true passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import DeclarationError
from harness.recovery.checks import Look, assess, build_check, parse_query
from harness.recovery.conditions import FIELDS, compile_condition
from harness.recovery.declarations import Invariant
from harness.recovery.facts import CheckResult

URL = "http://127.0.0.1:8001/health"


def test_failure_1_the_documented_condition_tells_a_dead_service_from_a_live_one() -> None:
    """`status == 200` parses, passes for 200, and for nothing else that a service can do."""
    check = build_check(Invariant(name="healthy", query=URL, condition="status == 200"))

    assert assess(check, Look(evidence={"status": 200}, took_ms=1))[0] is CheckResult.PASS
    assert assess(check, Look(evidence={"status": 503}, took_ms=1))[0] is CheckResult.FAIL
    assert assess(check, Look(evidence={}, took_ms=1, refusal="connection refused"))[0] is CheckResult.FAIL
    assert assess(check, Look(evidence={}, took_ms=1, blindness="the name does not resolve"))[0] is CheckResult.UNKNOWN


def test_failure_1_a_vanished_value_never_passes() -> None:
    """A field that was not seen is unknown, although CEL's error value is true for Python."""
    for text in ("status == 200", "status != 500", "!(status == 500)", "body.contains('x')"):
        assert compile_condition(text, "http").holds({}).result is CheckResult.UNKNOWN
        assert compile_condition(text, "http").holds({"status": None, "body": None}).result is CheckResult.UNKNOWN


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("", "http", "must not be empty"),
        ("status ==", "http", "refused"),
        ("status", "http", "not true or false"),
        ("'200'", "http", "not true or false"),
        ("json.ok", "http", "== true"),
        ("stats == 200", "http", "did you mean status"),
        ("value < 200", "http", "names value"),
        ("status == '200'", "http", "refused"),
        ("value < 'fast'", "latency", "never hold"),
        ("body.matches('(')", "http", "regular expression"),
        ("__import__('os').system('id') == 0", "http", "refused|names"),
        ("(" * 3000 + "true" + ")" * 3000, "http", "over the limit"),
        ("(" * 500 + "true" + ")" * 500, "http", "refused"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused_when_it_is_registered(text: str, kind: str, said: str) -> None:
    """It does not parse, is not boolean, or names an unknown field: `DeclarationError` says which."""
    with pytest.raises(DeclarationError, match=said):
        compile_condition(text, kind)


@pytest.mark.parametrize(
    ("text", "kind", "evidence", "result"),
    [
        ("status >= 200 && status < 300", "http", {"status": 204}, CheckResult.PASS),
        ("status in [200, 204]", "http", {"status": 500}, CheckResult.FAIL),
        ("value < 200", "latency", {"value": 12.5}, CheckResult.PASS),
        ("value < 200", "latency", {"value": 200.1}, CheckResult.FAIL),
        ("body.contains('ok')", "http", {"body": "all ok"}, CheckResult.PASS),
        ("headers['x-a'] == '1'", "http", {"headers": {"x-a": "1"}}, CheckResult.PASS),
        ("headers['x-a'] == '1'", "http", {"headers": {}}, CheckResult.ERROR),
        ("'x-a' in headers", "http", {"headers": {}}, CheckResult.FAIL),
        ("json.status == 'ok'", "http", {"json": {"status": "ok"}}, CheckResult.PASS),
        ("json.status == 'ok'", "http", {"json": {}}, CheckResult.ERROR),
        ("json.status == 'ok'", "http", {"status": 200}, CheckResult.UNKNOWN),
        ("json.ok == true", "http", {"json": {"ok": "true"}}, CheckResult.FAIL),
        ("status == 200 || body == 'x'", "http", {"status": 200}, CheckResult.PASS),
        ("status / 0 == 1", "http", {"status": 200}, CheckResult.ERROR),
        ("status == 200", "http", {"status": "200"}, CheckResult.ERROR),
        ("running", "process", {"running": True}, CheckResult.PASS),
        ("running", "process", {"running": False}, CheckResult.FAIL),
        ("connected", "tcp", {}, CheckResult.UNKNOWN),
    ],
)
def test_only_true_passes(text: str, kind: str, evidence: dict[str, object], result: CheckResult) -> None:
    """False fails, a missing field is unknown, anything that CEL cannot do is an error."""
    assert compile_condition(text, kind).holds(evidence).result is result


TEXT = st.text("ok\0\u00e9\U0001f600", max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(FIELDS)), st.dictionaries(st.sampled_from(["status", "value", "json", "body", "running"]), JSON))
def test_no_evidence_makes_a_condition_raise(kind: str, evidence: dict[str, object]) -> None:
    """Whatever a service answers, a condition gives one of four results."""
    for text in ("status == 200", "value < 200", "json.status == 'ok'", "body.contains('ok')", "running"):
        name = text.split()[0].split(".")[0]
        if name in FIELDS[kind]:
            holding = compile_condition(text, kind).holds(evidence)
            assert holding.result in CheckResult
            assert holding.detail or holding.result is CheckResult.PASS


@pytest.mark.parametrize(
    "query",
    [
        "", "http://", "http://h:99999/", "ftp://h/", "tcp:h", "tcp:h:0", "tcp:h:x", "process:", "process:../x",
        "prometheus: up", "latency:tcp:h:1", "http://u:p@h/", "http://h/a b", "http://h/\u00e9",
    ],
)  # fmt: skip
def test_a_query_that_makes_no_sense_is_refused(query: str) -> None:
    """A query that could never be asked is refused when it is registered."""
    with pytest.raises(DeclarationError):
        parse_query(query)


def test_queries_are_read() -> None:
    """Each kind of query names where to look."""
    http = parse_query("http://localhost:8001/health?full=1")
    latency = parse_query("latency:https://[::1]/x")
    tcp = parse_query("tcp:[::1]:5432")

    assert (http.kind, http.host, http.port, http.path, http.tls) == ("http", "localhost", 8001, "/health?full=1", False)
    assert (latency.kind, latency.host, latency.port, latency.tls) == ("latency", "::1", 443, True)
    assert (tcp.kind, tcp.host, tcp.port) == ("tcp", "::1", 5432)
    assert parse_query("process:api").service == "api"


def test_a_latency_that_could_not_be_measured_is_unknown() -> None:
    """A refused connection was not slow; no answer in time was."""
    check = build_check(Invariant(name="quick", query=f"latency:{URL}", condition="value < 200"))

    assert assess(check, Look(evidence={}, took_ms=1, refusal="refused"))[0] is CheckResult.UNKNOWN
    assert assess(check, Look(evidence={"timed_out": True}, took_ms=3000, refusal="no answer"))[0] is CheckResult.FAIL
