"""The suite of all transports over the real Claude Code and the real Codex; their models are scripted ones on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from harness.sessions.mock_model import MockModel

pytest.register_assert_rewrite("tests.session_cases")

from tests.session_cases import all_cases  # noqa: E402
from tests.session_rigs import REAL, Real, real_program  # noqa: E402

if TYPE_CHECKING:
    from tests.conftest import Hosted

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]
globals().update(all_cases())


@pytest.fixture
def model() -> Iterator[MockModel]:
    with MockModel() as model:
        yield model


@pytest.fixture(params=REAL)
def rig(request: pytest.FixtureRequest, hosted: Hosted, model: MockModel) -> Real:
    program = request.param.rpartition("-")[2]
    if not real_program(program):
        pytest.skip(f"{program} is missing: install it, or name it in HARNESS_TEST_{program.upper()}")
    return REAL[request.param](hosted, model)
