"""What an agent knows: its context, memory, skills and its own history, recorded and the same when it is resumed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from harness.agents import AgentResult, AutonomousAgent, ContextBuilder, ContextRequest, Skill, load_skills
from harness.errors import ApprovalRequired, PolicyDenied, UsageError
from harness.kernel import Kernel, KernelMiddleware, KernelPolicy, TenantContext, ToolRegistry
from harness.kernel.ports import Line, ModelRequest, ModelResult, ScriptedModelPort, ToolCall
from harness.ledger import MemoryStore, SQLiteStore, Store

TENANT = TenantContext(tenant_id="t")


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "h.db", durability="process")
    yield store
    await store.close()


def call(name: str, id: str = "", /, **arguments: Any) -> ToolCall:
    return ToolCall(id=id or f"{name}-id", name=name, arguments_json=json.dumps(arguments))


def calls(*asked: ToolCall) -> ModelResult:
    return ModelResult(tool_calls=asked)


class Bench:
    def __init__(self, store: Store, *script: Line, middleware: Any = ()) -> None:
        self.store = store
        self.port = ScriptedModelPort(script, by_history=True)
        self.kernel = Kernel(store=store, model_port=self.port, policy=KernelPolicy(model_attempts=1), middleware=middleware)

    async def run(self, *, run_id: str = "r", finish: bool = True, **options: Any) -> AgentResult:
        agent = AutonomousAgent(self.kernel, **options)
        return await agent.run(
            run_id=run_id, tenant=TENANT, model="m", system_prompt="Be brief.", prompt="Work.", finish=finish
        )

    async def size(self, run_id: str = "r") -> int:
        return len(await self.store.read(f"run/{run_id}"))


def told(result: AgentResult) -> list[tuple[Any, bool]]:
    return [
        (json.loads(message.text) if message.text.startswith("{") else message.text, message.is_error)
        for message in result.messages
        if message.role == "tool"
    ]


# -- context


async def test_a_context_is_assembled_in_order(store: Store) -> None:
    """System prompt, identity, skills, earlier work, own sections, and the task as the user's message."""

    async def weather(request: ContextRequest) -> str:
        return f"It rains on {request.run_id}."

    builder = ContextBuilder(identity="You are a pilot.", sections={"Weather": weather, "Nothing": lambda _: ""})
    bench = Bench(store, "Done.")
    await bench.kernel.start_run(tenant=TENANT, run_id="r")
    await bench.kernel.append_run_summary(run_id="r", tenant=TENANT, summary_type="task_progress", summary={"done": 1})

    await bench.run(context_builder=builder, skills=[Skill(name="land", description="How to land.", body="Slowly.")])

    system, task = bench.port.requests[0].messages
    places = [
        system.text.find(part) for part in ("Be brief.", "You are a pilot.", "- land: How", '{"done":1}', "It rains on r.")
    ]
    assert places == sorted(places)
    assert -1 not in places
    assert "Nothing" not in system.text
    assert (task.role, task.text) == ("user", "Work.")


async def test_a_context_is_collected_once(store: Store) -> None:
    """A resumed agent begins with what it began with, whatever has changed since."""
    asked: list[str] = []

    def clock(_: ContextRequest) -> str:
        asked.append("once")
        return f"It is {len(asked)} o'clock."

    def away(_: ModelRequest) -> Exception:
        return ConnectionError("away")

    bench = Bench(store, call("remember", key="k", text="v"), away)
    builder = ContextBuilder(sections={"Time": clock})
    with pytest.raises(Exception, match="away"):
        await bench.run(context_builder=builder)
    await bench.kernel.append_run_summary(run_id="r", tenant=TENANT, summary_type="task_progress", summary="changed")
    bench.port.script = (*bench.port.script[:1], "Done.")

    result = await bench.run(context_builder=builder)

    assert (result.output, asked) == ("Done.", ["once"])
    assert {request.messages[0].text for request in bench.port.requests} == {"Be brief.\n\n## Time\nIt is 1 o'clock."}


async def test_a_section_that_fails_is_asked_again(store: Store) -> None:
    """It fails this pass with its reason; the next one collects anew."""
    broken = True

    def section(_: ContextRequest) -> str:
        if broken:
            raise OSError("no file")
        return "Now it works."

    bench = Bench(store, "Done.")
    with pytest.raises(Exception, match="no file"):
        await bench.run(context_builder=ContextBuilder(sections={"Own": section}))
    broken = False

    assert (await bench.run(context_builder=ContextBuilder(sections={"Own": section}))).completed


def test_what_makes_no_context() -> None:
    """A section has a title of its own and some room."""
    with pytest.raises(UsageError, match="built-in"):
        ContextBuilder(sections={"Memory": lambda _: ""})
    with pytest.raises(UsageError, match="character"):
        ContextBuilder(max_section_characters=0)


# -- memory


async def test_an_agent_remembers_recalls_and_forgets(store: Store) -> None:
    """What is kept can be read by key and by words, is an artifact of the run, and can be forgotten."""
    bench = Bench(
        store,
        call("remember", "1", key="port", text="The port is 8080."), call("remember", "2", key="host", text="db-1"),
        calls(call("recall", "3"), call("recall", "4", key="port"), call("recall", "5", query="PORT 80")),
        call("forget", "6", key="host"), calls(call("recall", "7"), call("recall", "8", key="host")), "Done.",
    )  # fmt: skip

    result = await bench.run()

    assert told(result)[2:5] == [
        ({"keys": ["port", "host"]}, False),
        ({"entries": {"port": "The port is 8080."}}, False),
        ({"entries": {"port": "The port is 8080."}, "found": 1}, False),
    ]
    assert told(result)[6] == ({"keys": ["port"]}, False)
    assert told(result)[7][1]
    assert "there are: port" in told(result)[7][0]
    assert await bench.kernel.get_artifact(run_id="r", key="memory/port") == "The port is 8080."


async def test_a_tenants_memory_outlives_the_run(store: Store) -> None:
    """Another run of the tenant begins with it; another tenant's does not."""
    first = Bench(store, call("remember", key="port", text="8080"), "Done.")
    await first.run(run_id="one", memory="tenant")
    second = Bench(store, call("recall", key="port"), "Done.")

    result = await second.run(run_id="two", memory="tenant")

    assert "- port: 8080" in second.port.requests[0].messages[0].text
    assert told(result) == [({"entries": {"port": "8080"}}, False)]
    assert [status.run_id for status in await first.kernel.list_active_runs()] == []
    other = AutonomousAgent(second.kernel, memory="tenant")
    await other.run(run_id="x", tenant=TenantContext(tenant_id="o"), model="m", system_prompt="s", prompt="p")
    assert "8080" not in second.port.requests[-2].messages[0].text


async def test_what_an_agent_remembers_is_known_in_a_fork(store: Store) -> None:
    """The fork replays that something was kept, so it finds it; what the parent forgets later is the parent's."""
    bench = Bench(store, call("remember", key="port", text="8080"), calls(call("recall", "2", key="port"), call("recall", "3")),
                  call("forget", key="port"), "Done.")  # fmt: skip
    await bench.run()
    kept = await store.latest("run/r", "agent/turn-1/call-1")
    assert kept is not None
    await bench.kernel.fork_run(run_id="r", at_seq=kept.seq, new_run_id="fork")

    forked = await bench.run(run_id="fork")

    assert told(forked)[1:3] == [({"entries": {"port": "8080"}}, False), ({"keys": ["port"]}, False)]
    assert await bench.kernel.get_artifact(run_id="fork", key="memory/port") is None


async def test_memory_has_limits(store: Store) -> None:
    """What is too much, or under no key, is refused with the reason, and the agent goes on."""
    bench = Bench(
        store,
        calls(
            call("remember", "1", key="k", text="x" * 10_001), call("remember", "2", key="", text="x"),
            call("remember", "3", key="a\nb", text="x"), call("remember", "4", key="k" * 101, text="x"),
        ),
        "Done.",
    )  # fmt: skip

    result = await bench.run()

    assert [is_error for _, is_error in told(result)] == [True] * 4
    assert await bench.kernel.list_artifacts(run_id="r") == ()
    with pytest.raises(UsageError, match="'run', 'tenant'"):
        AutonomousAgent(bench.kernel, memory="galaxy")  # pyright: ignore[reportArgumentType]


async def test_an_agent_may_have_a_memory_of_its_own(store: Store) -> None:
    """A tool of the agent's or the kernel's takes the place of a built-in one of memory; None leaves all out."""
    tools = ToolRegistry()

    @tools.tool
    async def remember(what: str) -> str:
        """Mine."""
        return f"mine: {what}"

    bench = Bench(store, call("remember", what="x"), "Done.")

    result = await bench.run(tools=tools)
    await bench.run(run_id="none", memory=None)

    assert told(result) == [("mine: x", False)]
    assert [tool.name for tool in bench.port.requests[-1].tools] == ["query_event_history"]


# -- skills

SKILL = "---\nname: deploy\ndescription: >\n  How to deploy,\n  step by step.\nallowed-tools: [a, b]\n---\n# Deploy\n\nPush.\n"


def write_skill(folder: Path, name: str, text: str | bytes) -> Path:
    (folder / name).mkdir(parents=True)
    path = folder / name / "SKILL.md"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


async def test_a_skill_is_in_the_index_and_its_text_comes_when_asked(store: Store, tmp_path: Path) -> None:
    """The context has a line for each skill; `load_skill` gives the text, also if other tools are out of sight."""
    write_skill(tmp_path / "skills", "deploy", SKILL)
    bench = Bench(store, calls(call("load_skill", "1", name="deploy"), call("load_skill", "2", name="../etc")), "Done.")

    result = await bench.run(skills=tmp_path / "skills", visible_tool_names=[])

    system = bench.port.requests[0].messages[0].text
    assert "- deploy: How to deploy, step by step." in system
    assert "Push." not in system
    assert told(result)[0] == ("# Deploy\n\nPush.", False)
    assert told(result)[1][1]
    assert "there are: deploy" in told(result)[1][0]


async def test_a_skill_that_was_edited_changes_no_recorded_run(store: Store, tmp_path: Path) -> None:
    """The index and the text are those that were recorded."""
    path = write_skill(tmp_path / "skills", "deploy", SKILL)
    bench = Bench(store, call("load_skill", name="deploy"), "Done.")
    result = await bench.run(skills=str(tmp_path / "skills"))
    size = await bench.size()
    path.write_text("---\nname: deploy\ndescription: Otherwise.\n---\nPull.\n")

    assert await bench.run(skills=str(tmp_path / "skills")) == result
    assert await bench.size() == size


async def test_a_skill_brings_tools(store: Store) -> None:
    """They can be seen and called from the next turn on, and on replay just so."""
    tools = ToolRegistry()

    @tools.tool
    async def push() -> str:
        """Push."""
        return "pushed"

    skill = Skill(name="deploy", description="How to deploy.", body="Push.", tools=tools)
    bench = Bench(store, call("push", "0"), call("load_skill", name="deploy"), call("push", "1"), "Done.")

    result = await bench.run(skills=[skill])
    again = await bench.run(skills=[skill])

    assert [is_error for _, is_error in told(result)] == [True, False, False]
    shown = [any(tool.name == "push" for tool in request.tools) for request in bench.port.requests]
    assert shown == [False, False, True, True]
    assert again == result


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff\xfe\x00garbage", "UTF-8"),
        (b"---\nname: a\0b\n---\n", "NUL"),
        ("no front matter", "begins with no line"),
        ("", "begins with no line"),
        ("---\nname: deploy\n", "no line '---' after"),
        ("---\ndescription: d\n---\nx", "no 'name'"),
        ("---\nname: deploy\n---\nx", "no 'description'"),
        ("---\nname: ../../etc/passwd\ndescription: d\n---\nx", "letters, digits"),
        (f"---\nname: a\ndescription: {'d' * 2_000}\n---\nx", "1 to 1024"),
        ("---\nname: a\ndescription: d\n---\n" + "x" * 300_000, "larger than 256 KiB"),
    ],
)
def test_a_file_that_is_no_skill_is_one_clear_error(tmp_path: Path, text: str | bytes, words: str) -> None:
    """It names the file and what is wrong with it."""
    path = write_skill(tmp_path, "deploy", text)

    with pytest.raises(UsageError, match=words) as caught:
        load_skills(tmp_path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_skill_leads_nowhere_else(tmp_path: Path) -> None:
    """A link out of the directory is refused, a missing directory is named, a folder without a skill is none."""
    secret = tmp_path / "secret.md"
    secret.write_text("---\nname: a\ndescription: d\n---\nsecret")
    skills = tmp_path / "skills"
    (skills / "a").mkdir(parents=True)
    assert load_skills(skills) == []
    (skills / "a" / "SKILL.md").symlink_to(secret)

    with pytest.raises(UsageError, match="leads out of"):
        load_skills(skills)
    with pytest.raises(UsageError, match="missing"):
        load_skills(tmp_path / "missing")
    (skills / "a" / "SKILL.md").unlink()
    (skills / "a" / "SKILL.md").symlink_to(skills / "a" / "SKILL.md")
    with pytest.raises(UsageError, match=r"SKILL\.md"):
        load_skills(skills)


async def test_two_skills_of_one_name_are_refused(store: Store) -> None:
    """A name stands for one skill."""
    skill = Skill(name="a", description="d", body="b")

    with pytest.raises(UsageError, match="two skills"):
        AutonomousAgent(Bench(store).kernel, skills=[skill, skill])


# -- history


async def test_an_agent_reads_its_own_history(store: Store) -> None:
    """The newest events, of a type or all, in order, and no more than asked for."""
    bench = Bench(
        store, call("remember", key="k", text="v"), call("query_event_history", "1", limit=2),
        call("query_event_history", "2", event_type="artifact.set"),
        call("query_event_history", "3", event_type="step", limit=99),
        call("query_event_history", "4", event_type="no.such"), "Done.",
    )  # fmt: skip

    result = await bench.run(visible_tool_names=["remember"])
    again = await bench.run(visible_tool_names=["remember"])

    two, artifacts, steps, none = (answer for answer, _ in told(result)[1:])
    assert [answer["run_id"] for answer in (two, artifacts, steps, none)] == ["r"] * 4
    assert len(two["events"]) == 2
    assert two["events"][0]["seq"] < two["events"][1]["seq"]
    ((artifact),) = artifacts["events"]
    assert (artifact["event_type"], artifact["key"], artifact["value"]) == ("artifact.set", "artifact::memory/k", '"v"')
    assert {event["event_type"].partition(".")[0] for event in steps["events"]} == {"step"}
    assert none["events"] == []
    assert again == result


async def test_history_is_bounded_and_shows_no_secret(store: Store) -> None:
    """However long the run and whatever is in it, the answer is short and without keys and passwords."""
    tools = ToolRegistry()

    @tools.tool
    async def connect() -> str:
        """Connect."""
        return "password=hunter2secret " + "x" * 50_000

    bench = Bench(
        store, calls(*(call("connect", f"c{n}") for n in range(60))), call("query_event_history", limit=10_000), "Done."
    )

    result = await bench.run(tools=tools)

    answer = result.messages[-2].text
    assert len(answer) < 20_000
    assert len(json.loads(answer)["events"]) == 50
    assert "hunter2secret" not in answer
    assert "redacted" in answer


async def test_a_tool_cannot_take_the_name_of_a_built_in_one(store: Store) -> None:
    """The agent's own history stays what it is."""
    tools = ToolRegistry()

    @tools.tool
    async def query_event_history() -> str:
        """Another."""
        return ""

    with pytest.raises(UsageError, match="query_event_history"):
        AutonomousAgent(Bench(store).kernel, tools=tools)


async def test_tools_that_are_added_later_are_there(store: Store) -> None:
    """A registry may grow after the agent was made of it, also beside skills with tools."""
    tools, brought = ToolRegistry(), ToolRegistry()

    @brought.tool
    async def push() -> str:
        """Push."""
        return "pushed"

    bench = Bench(store, call("load_skill", name="s"), calls(call("push"), call("later")), "Done.")
    agent = AutonomousAgent(bench.kernel, tools=tools, skills=[Skill(name="s", description="d", body="b", tools=brought)])

    @tools.tool
    async def later() -> str:
        """Came later."""
        return "here"

    result = await agent.run(run_id="r", tenant=TENANT, model="m", system_prompt="s", prompt="p")

    assert told(result) == [("b", False), ("pushed", False), ("here", False)]


# -- what stands before the tools, and calls at once


async def test_what_a_middleware_refuses_is_the_tools_result(store: Store) -> None:
    """Also if it raises an error of its own; on replay the answer is the same, whatever it would say now."""

    class No(KernelMiddleware):
        raises: Exception | None = PolicyDenied("not on Sundays")

        async def prepare_tool_request(self, **fields: Any) -> str:
            if self.raises is not None and fields["tool_name"] == "recall":
                raise self.raises
            return fields["arguments_json"]

    no = No()
    bench = Bench(store, call("recall"), "Done.", middleware=[no])

    result = await bench.run()
    no.raises = None
    again = await bench.run()
    no.raises = PermissionError("never")
    other = await bench.run(run_id="other")

    assert told(result) == [("error: not on Sundays", True)]
    assert again == result
    assert told(other) == [("error: never", True)]


async def test_a_step_that_waits_for_approval_keeps_the_agent_waiting(store: Store) -> None:
    """Nothing is told to the model before a person has answered; then the run goes on with the very call."""

    class Ask(KernelMiddleware):
        allowed = False

        async def prepare_tool_request(self, **fields: Any) -> str:
            if fields["tool_name"] == "pay" and not self.allowed:
                raise ApprovalRequired("a person must allow it", question_id="q-1")
            return fields["arguments_json"]

    ask, paid = Ask(), ToolRegistry()
    done: list[str] = []

    @paid.tool(side_effect=True)
    async def pay() -> str:
        """Pay."""
        done.append("paid")
        return "paid"

    bench = Bench(store, calls(call("remember", "1", key="k", text="v"), call("pay", "2")), "Done.", middleware=[ask])
    for _ in range(2):
        with pytest.raises(ApprovalRequired, match="a person must allow it"):
            await bench.run(tools=paid)
    between = await bench.kernel.get_run_status(run_id="r")
    ask.allowed = True

    result = await bench.run(tools=paid)

    assert (between.status, done, result.output) == ("active", ["paid"], "Done.")
    assert told(result)[1] == ("paid", False)
    assert len(bench.port.requests) == 2


async def test_pure_calls_of_one_answer_run_at_once_and_side_effects_in_order(store: Store) -> None:
    """Neighbours that change nothing meet; a side effect waits for those before it and is waited for by those after."""
    tools, log = ToolRegistry(), []
    met: dict[str, anyio.Event] = {"a": anyio.Event(), "b": anyio.Event()}

    @tools.tool
    async def look(name: str, other: str) -> str:
        """Look, and wait for the other one."""
        met[name].set()
        with anyio.fail_after(20):
            await met[other].wait()
        log.append("look")
        return name

    @tools.tool(side_effect=True)
    async def act(name: str) -> str:
        """Do."""
        log.append(name)
        return name

    asked = calls(
        call("look", "1", name="a", other="b"), call("look", "2", name="b", other="a"),
        call("act", "3", name="x"), call("act", "4", name="y"), call("look", "5", name="a", other="b"),
    )  # fmt: skip
    bench = Bench(store, asked, "Done.")

    result = await bench.run(tools=tools)
    again = await bench.run(tools=tools)

    assert [answer for answer, _ in told(result)] == ["a", "b", "x", "y", "a"]
    assert log == ["look", "look", "x", "y", "look"]
    assert again == result


async def test_calls_run_one_after_another_if_that_is_wanted(store: Store) -> None:
    """For tools that do not bear company."""
    tools, at_work, most = ToolRegistry(), 0, 0

    @tools.tool
    async def look() -> None:
        """Look."""
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await anyio.sleep(0)
        at_work -= 1

    asked = calls(*(call("look", str(n)) for n in range(5)))

    await Bench(store, asked, "Done.").run(tools=tools, parallel_tool_calls=False)

    assert most == 1
