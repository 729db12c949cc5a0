"""A rehearsed `codex exec`: one prompt, one answer, with `--json` as lines. It asks nobody."""

from __future__ import annotations

import json
import math
import signal
import sys
import time

from harness.sessions.rehearsal import deeds
from harness.sessions.rehearsal.arguments import Arguments
from harness.sessions.rehearsal.codex_lines import SHELL, Line, new_id
from harness.sessions.rehearsal.flags import BadFlag, Plan, for_turn
from harness.sessions.rehearsal.stage import Journal, Over, Stage, Turn
from harness.sessions.rehearsal.vendor_store import VendorStore


def run(arguments: Arguments, argv: list[str]) -> int:
    """Answer the one prompt; gives the exit code."""
    words = arguments.words[1:]
    resumed = ""
    if words[:1] == ["resume"]:
        resumed, words = (words[1], words[2:]) if len(words) > 1 else ("", [])
    prompt = sys.stdin.read() if words in ([], ["-"]) else " ".join(words)
    journal = Journal(arguments.plan.journal)
    deeds.begin(arguments.plan, journal, argv)
    code = _Exec(arguments.plan, journal, as_json=arguments.has("--json")).run(prompt, resumed)
    journal.note("end", code=code)
    return code


class _Exec:
    def __init__(self, plan: Plan, journal: Journal, *, as_json: bool) -> None:
        self.plan = plan
        self.journal = journal
        self.json = as_json
        self.items = 0
        self.counters = {"input_tokens": 0, "output_tokens": 0, "turns": 0}

    def run(self, prompt: str, resumed: str) -> int:
        thread = resumed or new_id()
        vendor = VendorStore(self.plan.store, thread)
        if resumed:
            self.journal.note("resumed", session=resumed)
            saved = vendor.load()
            if self.plan.crashes_on_resume or (saved is None and self.plan.store):
                deeds.complain(f"Error: no rollout found for thread id {resumed}")
                return 1
            self.counters |= saved or {}
        else:
            vendor.create(self.counters)
        self._say({"type": "thread.started", "thread_id": thread})
        self.journal.note("message", id=None, text=prompt, how="prompt", busy=False)
        if "INT" not in self.plan.ignores:
            signal.signal(signal.SIGINT, self._on_interrupt)
        stage = Stage(lambda _data: None, lambda: None)
        if self.plan.dies_after >= 0:
            stage.after(self.plan.dies_after, lambda: deeds.end_silently(self.plan.code, self.journal))
        stage.perform(self._turn(prompt, vendor))
        return stage.run()

    def _on_interrupt(self, number: int, _frame: object) -> None:
        self.journal.note("signal", signal=number)
        raise Over(1)

    def _turn(self, prompt: str, vendor: VendorStore) -> Turn:
        self.counters["turns"] += 1
        try:
            plan = for_turn(self.plan, self.counters["turns"], prompt)
        except BadFlag as error:
            plan = self.plan.harmless
            plan.answer = str(error)
        self._say({"type": "turn.started"})
        yield plan.work
        for attempt in range(1, plan.retries + 1):
            self._say({"type": "error", "message": f"Reconnecting... {attempt}/{max(5, plan.retries)}"})
            yield plan.retry_delay
        calls = [f"sleep {plan.tool:g}"] if plan.tool > 0 else []
        for command in calls:
            yield from self._command(command, plan.tool)
        number = 0
        while plan.repeats == 0 or number < plan.repeats:
            number += 1
            yield from self._command("make test", plan.pause)
        deeds.disturb(plan, self.journal)
        plan_item: Line = {"type": "item.updated", "item": {"id": "item_0", "type": "todo_list", "items": []}}
        yield from deeds.trouble(plan, self.journal, lambda: self._say(plan_item))
        if plan.limit > 0:
            resets = time.strftime("%H:%M", time.localtime(math.ceil(time.time() + plan.limit)))
            words = f"You've hit your usage limit. Try again at {resets}."
            self._say({"type": "error", "message": words})
            self._say({"type": "turn.failed", "error": {"message": words}})
            raise Over(1)
        words = plan.answer or f"echo: {prompt}"
        self._item("agent_message", text=words)
        self.counters["input_tokens"] += plan.tokens[0]
        self.counters["output_tokens"] += plan.tokens[1]
        if self.plan.store:
            vendor.save(self.counters)
        usage = {"input_tokens": self.counters["input_tokens"], "output_tokens": self.counters["output_tokens"]}
        self._say({"type": "turn.completed", "usage": {**usage, "cached_input_tokens": 0, "reasoning_output_tokens": 0}})
        if not self.json:
            print(words, flush=True)
        while plan.lingers or self.plan.lingers:
            yield None
        raise Over(max(plan.exit, 0))

    def _command(self, command: str, seconds: float) -> Turn:
        self.items += 1
        item: Line = {
            "id": f"item_{self.items}", "type": "command_execution", "command": f"{SHELL} '{command}'",
            "aggregated_output": "", "exit_code": None, "status": "in_progress",
        }  # fmt: skip
        self._say({"type": "item.started", "item": item})
        yield seconds
        self._say({"type": "item.completed", "item": {**item, "exit_code": 0, "status": "completed"}})

    def _item(self, type_: str, **fields: object) -> None:
        self.items += 1
        self._say({"type": "item.completed", "item": {"id": f"item_{self.items}", "type": type_, **fields}})

    def _say(self, line: Line) -> None:
        if self.json:
            deeds.write(1, json.dumps(line).encode() + b"\n")
