"""Whether what a caller gives is what it should be, before anything is done with it. Pure; raises `UsageError`.

The steps' checks are on the hot path: they look at types only, and find words when one is wrong.
"""

from __future__ import annotations

from typing import Any

from harness.errors import UsageError
from harness.kernel.bounds import check_seconds
from harness.kernel.ports import ModelCallOptions
from harness.kernel.results import ModelInput
from harness.kernel.tenant import TenantContext

MAX_RUN_ID_BYTES = 350


def check_model_step(
    run_id: Any, tenant: Any, model: Any, input_: Any, step_key: Any, parent: Any, options: Any, visible: Any
) -> None:
    """Refuse a model step that cannot be meant."""
    if type(run_id) is not str or type(model) is not str or not model:
        _name("run_id", run_id)
        _name("model", model)
    if not isinstance(tenant, TenantContext):
        _tenant(tenant)
    if not isinstance(input_, ModelInput):
        raise UsageError(f"input is a ModelInput, such as ModelInput.from_prompt(text), not {_shown(input_)}")
    if options is not None and not isinstance(options, ModelCallOptions):
        raise UsageError(f"model_options are ModelCallOptions(…), not {_shown(options)}")
    if step_key is not None or parent is not None:
        _keys(step_key, parent)
    if visible is not None:
        check_visible(visible)


def check_tool_step(run_id: Any, tenant: Any, tool_name: Any, step_key: Any, parent: Any, timeout: Any) -> None:
    """Refuse a tool step that cannot be meant."""
    if type(run_id) is not str or type(tool_name) is not str or not tool_name.isascii():
        _name("run_id", run_id)
        _name("tool_name", tool_name)
    if not isinstance(tenant, TenantContext):
        _tenant(tenant)
    if step_key is not None or parent is not None:
        _keys(step_key, parent)
    if timeout is not None:
        check_seconds("timeout", timeout)


def check_visible(visible: Any) -> None:
    """Names of tools, not one text: its letters would be taken for names."""
    if isinstance(visible, str | bytes):
        raise UsageError(f"visible_tool_names are several names, not the text {visible!r}; write [{visible!r}]")
    if not all(isinstance(name, str) for name in visible):
        raise UsageError("visible_tool_names are names of tools")


def check_choice(what: str, value: Any, choices: tuple[str, ...]) -> None:
    """One of a few words, or None."""
    if value is not None and (not isinstance(value, str) or value not in choices):
        raise UsageError(f"{what} is one of {', '.join(choices)}, or None, not {_shown(value)}")


def check_run_id(run_id: Any) -> None:
    """The id of a run that is to be begun or found."""
    _name("run_id", run_id)
    if len(run_id.encode("utf-8", "surrogatepass")) > MAX_RUN_ID_BYTES or any(c <= " " or c == "\x7f" for c in run_id):
        raise UsageError(
            f"a run's id has 1 to {MAX_RUN_ID_BYTES} bytes, none of them a space or control character: {run_id[:100]!r}"
        )


def check_tenant(tenant: Any) -> None:
    """A tenant's context."""
    if not isinstance(tenant, TenantContext):
        _tenant(tenant)


def check_key(what: str, key: Any) -> None:
    """The name of an artifact, a summary or a step."""
    _name(what, key)


def check_parts(store: Any, model_port: Any, tool_port: Any, policy: Any, policy_type: type[Any]) -> None:
    """What a kernel is made of."""
    for name, part, method, example in (
        ("store", store, "append", "SQLiteStore(path)"),
        ("model_port", model_port, "complete", "MockModelPort(text=…)"),
        ("tool_port", tool_port, "registry", "CodingHarnessTools(sandbox_root=…)"),
    ):
        missing = part is None and name != "store"
        if not missing and (isinstance(part, type) or not callable(getattr(part, method, None))):
            raise UsageError(f"{name} has a method {method}(), such as {example}; {_shown(part)} has none")
    if policy is not None and not isinstance(policy, policy_type):
        raise UsageError(f"policy is a {policy_type.__name__}(…), not {_shown(policy)}")


def _keys(step_key: Any, parent: Any) -> None:
    for what, key in (("step_key", step_key), ("parent_step_key", parent)):
        if key is not None:
            _name(what, key)


def _name(what: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{what} is a text that is not empty, not {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not valid Unicode: {error.reason} at {error.start}") from None


def _tenant(tenant: Any) -> None:
    raise UsageError(f"tenant is a TenantContext(tenant_id=…), not {_shown(tenant)}")


def _shown(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else f"{type(value).__name__} {value!r:.60}"
