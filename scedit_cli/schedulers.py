"""Samplers by diffusers' names."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any

from scedit_cli.errors import SceditError
from scedit_cli.files import read_json

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

# They say of no other scheduler that it could be exchanged for them, and work on the same schedules of noise.
_FOR_DISTILLATES = ("LCMScheduler", "TCDScheduler")


def scheduler_like(current: SchedulerMixin, text: str | None = None) -> SchedulerMixin:
    """A fresh scheduler on the noise schedule of `current`.

    Args:
        text: `NAME[:KEY=VALUE,...]`, a class of diffusers with or without its ending "Scheduler", and settings of its
            own, such as "DPMSolverMultistep:use_karras_sigmas=true"; by default one like `current`.

    Raises:
        SceditError: no such scheduler fits, it has no such setting or takes no such value, or it needs a library that
            is not installed.
    """
    name, _, settings = (text or type(current).__name__).partition(":")
    kind = type(current) if text is None else _kind(name)
    given = _settings(kind, settings)
    if "clip_sample" in _parameters(kind) and "clip_sample" not in {*given, *current.config}:
        given["clip_sample"] = False  # by default DDIM and its kin cut latents to [-1, 1], where they do not end
    try:
        return kind.from_config(current.config, **given)
    except ImportError as error:
        raise SceditError(f"scheduler {name}: {error}", hint="install that library, or choose another") from error
    except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise SceditError(f"scheduler {text}: {error}", hint="diffusers' documentation says what it takes") from error


def _kind(name: str) -> type[SchedulerMixin]:
    import diffusers
    from diffusers.schedulers import KarrasDiffusionSchedulers

    known = [*(kind.name for kind in KarrasDiffusionSchedulers), *_FOR_DISTILLATES]
    full = name if name in known else f"{name}Scheduler"
    if full not in known:
        guess = difflib.get_close_matches(full, known, n=1)
        hint = f"did you mean {guess[0]}? " if guess else ""
        raise SceditError(f"scheduler {name!r}: not known", f"{hint}choose one of {', '.join(sorted(known))}")
    return getattr(diffusers, full)


def _settings(kind: type[SchedulerMixin], text: str) -> dict[str, Any]:
    """ "use_karras_sigmas=true,solver_order=3" -> {"use_karras_sigmas": True, "solver_order": 3}."""
    given = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if key not in _parameters(kind) or not equals:
            guess = difflib.get_close_matches(key, _parameters(kind), n=1)
            hint = f"did you mean {guess[0]}?" if guess else f"it has {', '.join(_parameters(kind))}"
            raise SceditError(f"scheduler {kind.__name__}: {part!r} is no setting of it", hint)
        try:
            given[key] = read_json(value)
        except ValueError:
            given[key] = value
    return given


def _parameters(kind: type[SchedulerMixin]) -> list[str]:
    return [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", "kwargs")]
