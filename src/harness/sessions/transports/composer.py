"""Typing messages to a program with a composer: never into a dialog, never twice, and Enter apart from the text.

The screen is read again right before anything is typed, and again before Enter. What was submitted is confirmed by the program
itself (a hook, its status) or by its composer being empty; until then Enter alone is repeated, never the text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from harness.errors import ProcessError, UsageError
from harness.sessions.dialects.turns import Turns
from harness.sessions.facts import State
from harness.sessions.reports import Outgoing, Receipt, Report
from harness.sessions.transports.keyboard import ENTER, Keyboard, as_typed, check_text
from harness.sessions.transports.profiles import TerminalProfile
from harness.sessions.transports.screen_watch import ScreenWatch

_READY_SECONDS = 10.0
_CLEAR_TRIES = 12
_CLEAR_SECONDS = 0.1
_IDLE_SECONDS = 1.5
_PAINT_SECONDS = 1.0  # for a program to show what was typed
_WAITS_SECONDS = (1.0, 2.0, 4.0)  # between one Enter and the next
_FIRST_WAIT_SECONDS = 0.3  # where no hook will come
_COMMANDS = ("/", "!")  # what a program does itself, without a turn


class Composer:
    """Types into one program. `progress` is to be called whenever a message may have been taken."""

    def __init__(
        self,
        profile: TerminalProfile,
        keyboard: Keyboard,
        watch: ScreenWatch,
        turns: Turns,
        *,
        tell: Callable[[list[Report]], object],
        hooked: Callable[[], bool],
    ) -> None:
        self._profile = profile
        self._keyboard = keyboard
        self._watch = watch
        self._turns = turns
        self._tell = tell
        self._hooked = hooked
        self._moved = asyncio.Event()
        self._enter = ENTER

    def progress(self) -> None:
        self._moved.set()

    async def deliver(self, message: Outgoing) -> None:
        """See `Transport.deliver`."""
        check_text(message.text)
        await self._ready()
        async with self._keyboard.turn:
            if not message.only_submit:
                await self._clear()
                await self._keyboard.type(as_typed(message.text, bracketed=self._keyboard.bracketed))
                await self._painted()
            if message.submit or message.only_submit:
                await self._submit(message)
        if not (message.submit or message.only_submit):
            self._tell([Receipt(stage="done", message_id=message.message_id, proof="it is in the composer, and not submitted")])
            return
        await self._confirm(message)

    async def _ready(self) -> None:
        """Wait for the composer. Raises `UsageError` if something else is."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + _READY_SECONDS
        while True:
            look = await self._watch.look()
            if look.blocked:
                raise UsageError(f"it asks something now ({look.reading.detail}): nothing was typed")
            if look.composer is not None:
                return
            if self._hooked() and loop.time() >= ends - _READY_SECONDS / 2 and look.reading.state is State.UNKNOWN:
                return  # a version that looks otherwise: it says by its hooks what it takes
            if loop.time() >= ends:
                raise UsageError("its composer is not to be seen on the screen: nothing was typed")
            await self._watch.next_look(0.2)

    async def _clear(self) -> None:
        """Empty the composer of what somebody has left there."""
        for _ in range(_CLEAR_TRIES):
            look = await self._watch.look()
            if look.blocked:
                raise UsageError(f"it asks something now ({look.reading.detail}): nothing was typed")
            if look.composer is None or look.empty or not self._profile.clear:
                return
            await self._keyboard.type(self._profile.clear)
            await self._watch.next_look(_CLEAR_SECONDS)
        raise UsageError("there is text in its composer that cannot be taken away: nothing was typed")

    async def _painted(self) -> None:
        """Give the program the time that it needs to see text and Enter as two things."""
        loop = asyncio.get_running_loop()
        typed = loop.time()
        while loop.time() < typed + _PAINT_SECONDS:
            look = await self._watch.look()
            if look.composer is None or not look.empty:
                break
            await self._watch.next_look(0.1)
        await asyncio.sleep(max(0.0, typed + self._profile.enter_after_seconds - loop.time()))

    async def _submit(self, message: Outgoing) -> None:
        look = await self._watch.look()
        if look.blocked:
            raise ProcessError(
                f"it asked something ({look.reading.detail}) while the message was typed: Enter was not pressed, and the text "
                f"may be in its composer"
            )
        self._turns.sent(message.message_id, "" if message.only_submit else message.text)
        self._moved.clear()
        await self._keyboard.type(self._enter)

    async def _confirm(self, message: Outgoing) -> None:
        """Return once it is taken, or may have been. Raises `ProcessError` if its text still stands in the composer."""
        waits = _WAITS_SECONDS if self._hooked() else (_FIRST_WAIT_SECONDS, *_WAITS_SECONDS)
        for number, seconds in enumerate(waits, start=1):
            if await self._taken(message.message_id, seconds):
                return
            look = await self._watch.look()
            if look.blocked:  # a command's own dialog, or a question of the turn that began, which will be told
                if message.text.startswith(_COMMANDS):
                    self._tell(self._turns.done_without_turn(message.message_id, proof="screen: it opened a dialog for it"))
                elif look.ask is not None and not self._hooked():
                    self._tell(self._turns.taken(None, proof="screen: it asks leave"))
                return
            if look.composer is None:
                continue
            if not look.empty:
                if number < len(waits):
                    async with self._keyboard.turn:
                        await self._keyboard.type(self._enter)
                continue
            if look.reading.state is State.BUSY:
                self._tell(self._turns.taken(None, proof="screen: its composer is empty and it works"))
                return
            if message.text.startswith(_COMMANDS) or number == len(waits):
                told = self._turns.done_without_turn(
                    message.message_id, proof="screen: its composer is empty, and no turn began"
                )
                self._tell(told)
                return
        if self._turns.waits(message.message_id):
            self._turns.withdrawn(message.message_id)
            raise ProcessError(f"it does not take Enter, which was pressed {len(waits)} times: the text is in its composer")

    async def _taken(self, message_id: str, seconds: float) -> bool:
        """Whether it was taken within this time."""
        try:
            async with asyncio.timeout(seconds):
                while self._turns.waits(message_id):
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    async def _idle(self) -> bool:
        """Whether it is at its prompt; without a turn it may be about to show that."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + (_IDLE_SECONDS if not self._turns.turn else 0.0)
        while True:
            look = await self._watch.look()
            if look.reading.state is State.PROMPT and look.composer is not None:
                return True
            if look.blocked or loop.time() >= ends:
                return False
            await self._watch.next_look(0.1)

    async def leave(self) -> bool:
        """Type the program's own way to exit, if it is idle at its prompt; False if it is not."""
        if not self._profile.leave or not await self._idle():
            return False
        async with self._keyboard.turn:
            await self._clear()
            for number, keys in enumerate(self._profile.leave):
                if number:
                    await self._painted()
                await self._keyboard.type(keys)
        return True
