"""Which precision is the fastest on this processor: found by trying both."""

import logging
import time
from dataclasses import dataclass

from imagemill.db.models.registry import ModelEntry
from imagemill.db.settings import Settings
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.probe import probe
from imagemill.worker.models.device import Precision, bf16_instructions, resolve_device
from imagemill.worker.models.environment import cpu_name
from imagemill.worker.models.loader import load_model

log = logging.getLogger(__name__)

_ROUNDS = 5

WORTH = 1.1
"""How many times as fast as fp32 bf16 must be to be taken. It has fewer digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """The least seconds of processor time that a denoiser pass took in each precision."""

    fp32_seconds: float
    bf16_seconds: float

    @property
    def bf16_speed(self) -> float:
        """How many times as fast as fp32 bf16 was."""
        return self.fp32_seconds / self.bf16_seconds

    @property
    def fastest(self) -> Precision:
        """The precision to take: bf16 if it is worth it."""
        return "bf16" if self.bf16_speed >= WORTH else "fp32"


def kind_of_processor(settings: Settings, own: Precision | None) -> str | None:
    """What processors that share the result of a trial have in common; None if there is no trial.

    There is none unless `dtype = "fastest"`, on a GPU, on a processor without instructions for
    bf16, and for a model whose `own` precision is bf16, which it always gets.
    """
    if settings.dtype != "fastest" or own == "bf16":
        return None
    instructions = bf16_instructions()
    if instructions is None or resolve_device(settings).type != "cpu":
        return None
    return f"{cpu_name()}, {instructions}"


def try_precisions(entry: ModelEntry, settings: Settings) -> Trial:
    """Time a denoiser pass of a model in fp32 and in bf16, by turns, at its own size.

    Nothing is compiled for it. Both models are loaded meanwhile. Raises what loading raises, and
    `RenderError` for a model that draws nothing without a picture.
    """
    plain = {"compile": False, "compile_regions": False, "compile_vae": False}
    settings = settings.model_copy(update=plain)
    contestants = []
    for precision in _PRECISIONS:
        model = load_model(entry, settings=settings, precision=precision)
        width, height = model.facts.default_size
        group = {
            "weights_digest": model.weights_digest,
            "width": width,
            "height": height,
            "guided": model.facts.guided,
            "adapters": [],
        }
        contestants.append((open_engine(model, group, settings), group, model))
    # Processor time, and the least of several: on a busy machine a pass takes longer, never
    # shorter, and what else the machine does must not decide.
    rounds = [[probe(*each, time.process_time) for each in contestants] for _ in range(_ROUNDS)]
    fp32, bf16 = (min(seconds) for seconds in zip(*rounds, strict=True))
    trial = Trial(fp32_seconds=fp32, bf16_seconds=bf16)
    log.info(
        "a denoiser pass of %s is %.2f times as fast in bf16 as in fp32: %s is taken",
        entry.name,
        trial.bf16_speed,
        trial.fastest,
    )
    return trial


_PRECISIONS: tuple[Precision, Precision] = ("fp32", "bf16")
