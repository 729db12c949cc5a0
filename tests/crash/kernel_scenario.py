"""A scripted run that is killed at one point and then resumed; driven by `test_kernel_crash`.

Run as a program: `kernel_scenario.py FOLDER points|random [COUNT SEED]`. It forks a fresh process for each attempt and
for each resume, and prints one JSON line for each point: what was killed where, and what is wrong with the result.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import harness.kernel.history
import harness.ledger.inspection
import harness.people.questions  # noqa: F401 - what is loaded when needed is loaded here, before the forks
from harness.errors import OutcomeUnknown
from harness.kernel import Kernel, Message, ModelInput, ModelRequest, ModelResult, TenantContext, ToolExecutionContext, Usage
from harness.kernel.results import StepToolResult
from harness.ledger import SQLiteStore

RUN = "run-1"
TENANT = TenantContext(tenant_id="t", budget_usd_limit=1.0)
CALL_USD = 0.01
INSTANT, WAITING, PURE, EFFECTS = 3, 4, 4, 6


class Said(BaseModel):
    said: str


class Mortal(SQLiteStore):
    """Dies at its n-th write: before it (`before`), or when it is durable (`after`)."""

    def __init__(self, path: Path, n: int, when: str) -> None:
        self.left = n
        self.when = when
        super().__init__(path, durability="process")  # which a kill -9 does not harm, and it is faster

    def _last(self) -> bool:
        self.left -= 1
        if self.left == 0 and self.when == "before":
            _die()
        return self.left == 0

    async def append(self, *args: Any, **more: Any) -> Any:
        last = self._last()
        result = await super().append(*args, **more)
        if last:
            _die()
        return result

    def submit(self, *args: Any, **more: Any) -> Any:
        last = self._last()
        result: Any = super().submit(*args, **more)
        if last:
            result.add_done_callback(lambda _: _die())
        return result


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Tally:
    """A file that counts what really happened, one line each, whoever is killed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, line: str) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, f"{line}\n".encode())
        os.close(fd)

    def lines(self) -> list[str]:
        return self.path.read_text().split("\n")[:-1] if self.path.exists() else []


class Port:
    """Answers at once or after a while, as the prompt says; counts its calls."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    async def complete(self, request: ModelRequest) -> ModelResult:
        if request.prompt.startswith("wait"):
            await asyncio.sleep(0.001)
        self.tally.add(f"model {request.prompt}")
        return ModelResult(output={"said": request.prompt}, usage=Usage(input_tokens=1, cost_usd=CALL_USD))


def register(kernel: Kernel, tally: Tally) -> None:
    """Pure tools, and side effects of every policy."""

    @kernel.tool()
    async def double(n: int) -> int:
        tally.add(f"double {n}")
        return 2 * n

    @kernel.tool()
    def triple(n: int) -> int:
        tally.add(f"triple {n}")
        return 3 * n

    def happened(context: ToolExecutionContext) -> bool:
        return any(line.startswith(f"effect {context.idempotency_key} ") for line in tally.lines())

    for policy in ("ask", "retry", "probe"):

        async def effect(n: int, context: ToolExecutionContext, policy: str = policy) -> None:
            tally.add(f"effect {context.idempotency_key} {policy} {n}")
            await asyncio.sleep(0)

        kernel.tool(name=policy, side_effect=True, on_unknown=policy, probe=happened)(effect)  # type: ignore[arg-type]


class Script:
    """What the run does. It is the same each time, so a resume repeats the calls and not their effects."""

    def __init__(self, kernel: Kernel, tally: Tally) -> None:
        self.kernel = kernel
        self.tally = tally

    async def run(self) -> None:
        kernel = self.kernel
        await kernel.open_run(tenant=TENANT, run_id=RUN)
        said = await asyncio.gather(
            *(self.ask(f"at once {n}") for n in range(INSTANT)), *(self.ask(f"wait {n}") for n in range(WAITING))
        )
        assert [result.output.said for result in said] == [result.text or result.output.said for result in said]
        doubled = await asyncio.gather(
            *(self.use("double", n) for n in range(PURE)), *(self.use("triple", n) for n in range(2))
        )
        assert [result.result for result in doubled] == [2 * n for n in range(PURE)] + [0, 3]
        if await kernel.get_artifact(run_id=RUN, key="plan") is None:
            await kernel.set_artifact(run_id=RUN, tenant=TENANT, key="plan", value={"effects": EFFECTS})
        for n in range(EFFECTS):
            await self.effect(("ask", "retry", "probe")[n % 3], n)
        await asyncio.gather(*(self.effect("probe", n) for n in range(EFFECTS, EFFECTS + 3)))
        conversation = [Message.user("begin"), Message.assistant("yes"), Message.user("end")]
        await self.ask("end", messages=conversation)
        if (await kernel.get_run_status(run_id=RUN)).active:
            await kernel.finish_run(run_id=RUN, tenant=TENANT)

    def ask(self, prompt: str, messages: list[Message] | None = None) -> Any:
        asked = ModelInput.from_messages(messages) if messages else ModelInput.from_prompt(prompt)
        return self.kernel.step_model(run_id=RUN, tenant=TENANT, model="m", input=asked, output_schema=Said)

    def use(self, tool: str, n: int) -> Any:
        return self.kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name=tool, arguments={"n": n}, step_key=f"{tool}-{n}")

    async def effect(self, policy: str, n: int) -> StepToolResult | None:
        try:
            return await self.use(policy, n)
        except OutcomeUnknown:  # a person looks whether it happened
            did = any(line.endswith(f" {policy} {n}") for line in self.tally.lines())
            return await self.kernel.reconcile_tool(
                run_id=RUN, tenant=TENANT, tool_name=policy, step_key=f"{policy}-{n}", outcome="completed" if did else "retry"
            )


async def attempt(folder: Path, n: int, when: str) -> None:
    """The script under a store that may die."""
    tally = Tally(folder / "tally")
    async with Mortal(folder / "k.db", n, when) as store, Kernel(store=store, model_port=Port(tally)) as kernel:
        register(kernel, tally)
        await Script(kernel, tally).run()


async def resume(folder: Path) -> None:
    """The script again, in another process, to its end; then everything is looked at."""
    tally = Tally(folder / "tally")
    wrong: list[str] = []
    async with SQLiteStore(folder / "k.db", durability="process") as store:
        finished = {event.key for event in await store.read(f"run/{RUN}") if event.type == "step.completed"}
        before = tally.lines()
        async with Kernel(store=store, model_port=Port(tally)) as kernel:
            register(kernel, tally)
            await Script(kernel, tally).run()
            told = await kernel.get_steps(run_id=RUN)
            status = await kernel.get_run_status(run_id=RUN)
        wrong += _look(tally.lines(), before, {key for key in finished if key})
        if not await store.verify():
            wrong.append(f"the chain does not verify: {(await store.verify()).problems}")
        if {step.state for step in told} != {"completed"} or status.status != "completed":
            wrong.append(f"not everything is completed: {[step for step in told if step.state != 'completed']} {status.status}")
        events = await store.read(f"run/{RUN}")
        spent = sum(event.payload.get("cost", 0) for event in events if event.type.startswith("step."))
        if (reserved := await store.reserved("spend/t")) != spent:
            wrong.append(f"{reserved} is on the tenant's counter and {spent} was spent")
    (folder / "wrong").write_text(json.dumps(wrong))


def _look(lines: list[str], before: list[str], finished: set[str]) -> list[str]:
    wrong: list[str] = []
    new = lines[len(before) :]
    for line in new:
        words = line.split(" ")
        step = f"{words[2]}-{words[3]}" if words[0] == "effect" else f"{words[0]}-{words[1]}"
        if step in finished:
            wrong.append(f"{step} was finished and ran again")
    effects = [line.split(" ") for line in lines if line.startswith("effect ")]
    for n in range(EFFECTS + 3):
        policy = ("ask", "retry", "probe")[n % 3] if n < EFFECTS else "probe"
        mine = [words for words in effects if words[2:] == [policy, str(n)]]
        if not mine or (len(mine) > 1 and policy != "retry") or len({words[1] for words in mine}) != 1:
            wrong.append(f"effect {n} ({policy}) happened as {mine}")
    return wrong


def _forked(work: Callable[[], Any], *, seconds: float | None = None) -> int:
    """Run it in a fresh process; gives its exit code, negative for a signal. `seconds`: kill it then."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # who hangs is told apart from who waits
        code = 1
        try:
            asyncio.run(work())
            code = 0
        except BaseException:  # noqa: BLE001 - it ends here, whatever it is
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def point(
    root: Path,
    name: str,
    work: Callable[[Path], Callable[[], Any]],
    resume: Callable[[Path], Any],
    *,
    seconds: float | None = None,
) -> bool:
    """One kill and one resume, which writes what is wrong to `wrong`. Gives whether it was killed at all."""
    folder = root / name
    folder.mkdir()
    code = _forked(work(folder), seconds=seconds)
    wrong: list[str] = [] if code in (0, -signal.SIGKILL) else [f"the attempt ended with {code}"]
    if _forked(lambda: resume(folder)) != 0:
        wrong.append("the resume failed")
    else:
        wrong += json.loads((folder / "wrong").read_text())
    print(json.dumps({"point": name, "killed": code == -signal.SIGKILL, "wrong": wrong}), flush=True)
    return code == -signal.SIGKILL


def main() -> None:
    root, mode = Path(sys.argv[1]), sys.argv[2]
    if mode == "points":
        for when in ("before", "after"):
            n = 1
            while point(root, f"{when}-{n}", lambda folder, n=n, when=when: lambda: attempt(folder, n, when), resume):
                n += 1
    else:
        dice = random.Random(int(sys.argv[4]))
        for number in range(int(sys.argv[3])):
            seconds = dice.uniform(0.002, 0.12)
            point(root, f"random-{number}", lambda folder: lambda: attempt(folder, -1, ""), resume, seconds=seconds)


if __name__ == "__main__":
    main()
