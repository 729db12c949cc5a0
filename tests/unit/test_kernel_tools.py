"""Tools: schemas from type hints, arguments, results, decisions."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from harness.errors import StepRejected, UsageError
from harness.kernel import Probed, TenantContext, Tool, ToolExecutionContext, ToolRegistry
from harness.kernel.tenant import decide
from harness.kernel.tools import canonical_arguments, result_bytes
from harness.kernel.toolsets import Toolsets

TENANT = TenantContext(tenant_id="t", capabilities=frozenset({"pay"}))


class Address(BaseModel):
    street: str
    number: int = 1


class Spot(BaseModel):
    x: float


def ship(to: Address, kind: Literal["fast", "slow"] = "slow", json: bool = False, *, ctx: ToolExecutionContext) -> str:
    """Send a parcel."""
    return f"{to.street} {to.number} {kind} {json} {ctx.idempotency_key}"


def _context(tool: str = "ship") -> ToolExecutionContext:
    return ToolExecutionContext(run_id="r", tenant=TENANT, tool_name=tool, step="s", idempotency_key="key")


def test_the_schema_comes_from_the_type_hints() -> None:
    """Names, types, choices, defaults and requirements are in the schema; the context is not."""
    schema = Tool(ship).definition.input_schema

    assert list(schema["properties"]) == ["to", "kind", "json"]
    assert schema["required"] == ["to"]
    assert schema["properties"]["kind"] == {"default": "slow", "enum": ["fast", "slow"], "type": "string"}
    assert schema["additionalProperties"] is False
    assert "title" not in json.dumps(schema)
    assert Tool(ship).definition.description == "Send a parcel."


def test_descriptions_and_bounds_are_kept() -> None:
    """What a field says about itself reaches the model."""

    def wait(seconds: Annotated[int, Field(ge=1, description="How long")]) -> None: ...

    assert Tool(wait).definition.input_schema["properties"]["seconds"] == {
        "description": "How long", "minimum": 1, "type": "integer",
    }  # fmt: skip


async def test_arguments_are_checked_and_bound() -> None:
    """A tool gets what its hints say, and its context."""
    tool = Tool(ship)

    bound = tool.bind(b'{"to":{"street":"Elm"},"json":true}')

    assert await tool.call(bound, _context()) == "Elm 1 slow True key"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (b"{}", "to: Field required"),
        (b'{"to":{"street":1}}', "to.street: Input should be a valid string"),
        (b'{"to":{"street":"Elm"},"kind":"x"}', "kind: Input should be 'fast' or 'slow'"),
        (b'{"to":{"street":"Elm"},"ctx":{}}', "ctx: Extra inputs are not permitted"),
    ],
)
def test_wrong_arguments_are_rejected_in_one_line(arguments: bytes, said: str) -> None:
    """A rejection names the argument and what is wrong, and nothing can be slipped into the context."""
    with pytest.raises(StepRejected, match="arguments of ship") as caught:
        Tool(ship).bind(arguments)

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_synchronous_tool_runs_beside_the_event_loop() -> None:
    """A blocking function runs in a thread that does not keep the interpreter from exiting."""
    here: list[threading.Thread] = []

    def block() -> None:
        here.append(threading.current_thread())

    await Tool(block).call({}, _context("block"))

    assert here[0] is not threading.current_thread()
    assert here[0].daemon


async def test_what_a_synchronous_tool_raises_reaches_the_caller() -> None:
    """Also a StopIteration, which no future can carry."""

    def fails() -> None:
        raise KeyError("x")

    def stops() -> None:
        raise StopIteration

    with pytest.raises(KeyError):
        await Tool(fails).call({}, _context())
    with pytest.raises(RuntimeError, match="StopIteration"):
        await Tool(stops).call({}, _context())


@pytest.mark.parametrize(
    ("result", "recorded"),
    [
        (None, b"null"),
        ("plain", b'"plain"'),
        ('{"b": 1, "a": [ ]}', b'{"a":[],"b":1}'),
        ("{not json", b'"{not json"'),
        ("42", b'"42"'),
        ({"b": 1, "a": 2}, b'{"a":2,"b":1}'),
        ([1, 2.5, True], b"[1,2.5,true]"),
        (Address(street="Elm"), b'{"number":1,"street":"Elm"}'),
        ([Address(street="Elm")], b'[{"number":1,"street":"Elm"}]'),
        ({"home": {"at": Address(street="Elm", number=2)}}, b'{"home":{"at":{"number":2,"street":"Elm"}}}'),
    ],
)
def test_results_are_json(result: Any, recorded: bytes) -> None:
    """Text, values, models and None are recorded as canonical JSON; a text that is an object or array is that."""
    assert result_bytes("t", result) == recorded


@pytest.mark.parametrize("result", [object(), float("nan"), [float("inf")], Address, [Spot(x=float("nan"))]])
def test_a_result_that_is_no_json_is_a_type_error(result: Any) -> None:
    """What cannot be recorded is refused."""
    with pytest.raises(TypeError, match="no JSON"):
        result_bytes("t", result)


@pytest.mark.parametrize(
    ("arguments", "canonical"),
    [
        (None, b"{}"),
        ({"b": 1, "a": None}, b'{"a":null,"b":1}'),
        ('{"b": 1, "a": 2}', b'{"a":2,"b":1}'),
        (Address(street="Elm"), b'{"number":1,"street":"Elm"}'),
    ],
)
def test_arguments_have_one_form(arguments: object, canonical: bytes) -> None:
    """A mapping, a model and JSON text of the same meaning are the same arguments."""
    assert canonical_arguments(arguments) == canonical


@pytest.mark.parametrize("arguments", [[1], "x", "[1]", {"a": object()}, {"a": float("nan")}])
def test_arguments_that_are_no_object_are_rejected(arguments: object) -> None:
    """Only a JSON object has named arguments."""
    with pytest.raises(StepRejected, match="JSON object"):
        canonical_arguments(arguments)


def test_mistakes_are_refused_when_a_tool_is_registered() -> None:
    """Bad names, policies and parameters are told at once, not in the middle of a run."""

    def any_number(*values: int) -> None: ...

    for make in (
        lambda: Tool(any_number),
        lambda: Tool(ship, name="two words"),
        lambda: Tool(ship, on_unknown="guess"),  # type: ignore[arg-type]
        lambda: Tool(ship, on_unknown="probe"),
        lambda: ToolRegistry([Tool(ship), Tool(ship)]),
    ):
        with pytest.raises(UsageError):
            make()


@pytest.mark.parametrize(
    ("found", "happened", "result"),
    [
        (True, True, None),
        (False, False, None),
        (None, None, None),
        ({"id": 7}, True, {"id": 7}),
        (Probed(happened=None), None, None),
    ],
)
async def test_a_probe_says_what_happened(found: Any, happened: bool | None, result: Any) -> None:
    """A probe may give a yes or no, nothing, or what the tool would have returned."""
    asked: list[str] = []

    def probe(to: Address, ctx: ToolExecutionContext) -> Any:
        asked.append(f"{to.street} {ctx.idempotency_key}")
        return found

    tool = Tool(ship, side_effect=True, on_unknown="probe", probe=probe)

    assert await tool.ask_probe(tool.bind(b'{"to":{"street":"Elm"}}'), _context()) == Probed(happened=happened, result=result)
    assert asked == ["Elm key"]


@pytest.mark.parametrize(
    ("requires", "visible", "decision", "reason"),
    [
        (None, None, "allowed", "no_capability_required"),
        ("pay", None, "allowed", "capability_granted"),
        ("admin", None, "filtered", "capability_missing"),
        (None, ("other",), "filtered", "not_visible"),
        ("admin", (), "filtered", "not_visible"),
    ],
)
def test_one_decision_about_a_tool(requires: str | None, visible: tuple[str, ...] | None, decision: str, reason: str) -> None:
    """Capability and visibility decide, and the decision says why."""
    decided = decide(Tool(ship, requires_capability=requires), TENANT, visible)

    assert (decided.decision, decided.reason) == (decision, reason)


def test_a_toolset_shows_what_is_allowed_and_changes_with_the_registry() -> None:
    """A tool that is registered later is in the next toolset; the caller's own tool comes before the kernel's."""
    registry = ToolRegistry([Tool(ship)])
    toolsets = Toolsets(registry)
    before = toolsets.of(TENANT, None)
    registry.add(Tool(ship, name="audit", requires_capability="admin"))
    registry.add(Tool(ship, name="post"))
    own = ToolRegistry([Tool(ship, name="post", tool_version="2")])

    assert [d.name for d in before.definitions] == ["ship"]
    assert [d.name for d in toolsets.of(TENANT, None).definitions] == ["post", "ship"]
    assert toolsets.of(TENANT, None, own).definitions[0].tool_version == "2"
    assert toolsets.of(TENANT, ()).digest == ""
    assert toolsets.of(TENANT, None) is toolsets.of(TENANT, None)


def test_pydantic_is_loaded_only_when_a_schema_is_needed() -> None:
    """Registering tools and importing the kernel leaves pydantic alone."""
    script = (
        "import sys\nfrom harness.kernel import Kernel\nfrom harness.ledger import MemoryStore\n"
        "kernel = Kernel(store=MemoryStore())\n@kernel.tool()\ndef add(a: int) -> int: return a\n"
        "assert not {'pydantic', 'httpx', 'anthropic', 'openai', 'rich', 'typer', 'cryptography'} & set(sys.modules)\n"
    )

    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
