"""One suite for all transports, over rehearsed programs: terminal, stream-json, app-server, one prompt, plain command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("tests.session_cases")

from tests.session_cases import all_cases  # noqa: E402
from tests.session_rigs import REHEARSED, Rig  # noqa: E402

if TYPE_CHECKING:
    from tests.conftest import Hosted

globals().update(all_cases())


@pytest.fixture(params=REHEARSED)
def rig(request: pytest.FixtureRequest, hosted: Hosted) -> Rig:
    return REHEARSED[request.param](hosted)
