"""What workers of one kind agree on: B of each group, certificates, and the fastest precision.

They do so through the database. There is one B for each class of device and group, because another
B is another environment. The first worker in an environment tests whether pixels are independent of
the batch there.
"""

import logging
from typing import TYPE_CHECKING, Any

from imagemill.db.database import Database
from imagemill.db.errors import ImagemillError, RenderError
from imagemill.db.models.components import weights_digest
from imagemill.db.models.registry import ModelEntry
from imagemill.db.queries.pictures import environments
from imagemill.db.queries.pictures.environments import environment_id
from imagemill.db.queries.work import precisions
from imagemill.db.queries.work.claims import GroupChoice
from imagemill.db.settings import Settings
from imagemill.worker.engine import Engine
from imagemill.worker.reproducibility.remembered_certificates import RememberedCertificates

if TYPE_CHECKING:
    from imagemill.worker.models.device import Precision

log = logging.getLogger(__name__)


class Agreements:
    """The agreements of one process. `device_class` is equal for devices that share a B."""

    def __init__(self, database: Database, *, device_class: str, settings: Settings) -> None:
        self._database = database
        self._device_class = device_class
        self._settings = settings
        self._remembered = RememberedCertificates(settings.certificates)
        self._shrunk: dict[int, int] = {}

    def slots(self, group_id: int) -> int | None:
        """B for a group: shrunk here, set by the operator, or agreed; None if it is open."""
        if group_id in self._shrunk:
            return self._shrunk[group_id]
        if self._settings.slots is not None:
            return self._settings.slots
        return self._database.run(
            lambda session: environments.batch_size(
                session, device=self._device_class, group_id=group_id
            )
        )

    def agree(self, group_id: int, slots: int) -> int:
        """The B that counts, after this worker's engine came out with `slots`."""
        if self._settings.slots is not None or group_id in self._shrunk:
            return slots
        return self._database.run(
            lambda session: environments.agree_on_batch_size(
                session, device=self._device_class, group_id=group_id, slots=slots
            )
        )

    def shrink(self, group_id: int, slots: int) -> None:
        """After running out of memory, use at most `slots`, on all devices of the class."""
        self._shrunk[group_id] = slots
        if self._settings.slots is None:
            self._shrunk[group_id] = self._database.run(
                lambda session: environments.shrink_batch_size(
                    session, device=self._device_class, group_id=group_id, slots=slots
                )
            )

    def precision(self, entry: ModelEntry) -> "Precision | None":
        """What `dtype = "fastest"` means for a model here; None if the settings say all.

        The first worker on a kind of processor tries. Its answer counts for all of them, because
        another precision is another environment.
        """
        import torch  # noqa: PLC0415  # the parent of children that are programs never loads torch

        from imagemill.worker.engine.fastest_precision import kind_of_processor, try_precisions  # noqa: PLC0415  # loads torch

        kind = kind_of_processor(self._settings, entry.dtype)
        if kind is None:
            return None
        key = {
            "weights_digest": weights_digest(entry),
            "device": kind,
            "torch": str(torch.__version__),
        }
        with self._database.reading() as session:
            agreed = precisions.fastest_precision(session, **key)
        if agreed is None:
            try:
                trial = try_precisions(entry, self._settings)
            except RenderError as error:
                # Some models draw nothing without a picture, as in `certify`.
                log.info("%s can't be tried in two precisions: %s", entry.name, error)
                return None
            agreed = self._database.run(
                lambda session: precisions.agree_on_precision(
                    session, **key, precision=trial.fastest, bf16_speed=trial.bf16_speed
                )
            )
        return "bf16" if agreed == "bf16" else "fp32"

    def certify(self, choice: GroupChoice, engine: Engine) -> None:
        """Test whether pixels are independent of the batch, unless that is known, and record it."""
        from imagemill.worker.reproducibility.certificate import HOW_TO_KEEP_BITS, certify  # noqa: PLC0415  # loads torch

        environment = engine.environment
        if environment.free:
            log.info("%s: reproducible = false, so no bits are promised", choice.model_name)
            return
        known = self._database.run(
            lambda session: environment_id(
                session, fingerprint=environment.fingerprint(), document=environment.document()
            )
        )
        with self._database.reading() as session:
            if environments.certificate(session, known) is not None:
                return
        remembered = self._remembered.find(environment.document())
        if remembered is not None:
            self._record(known, remembered)
            return
        try:
            certificate = certify(engine, choice.document, model_name=choice.model_name)
        except ImagemillError as error:
            # Some models can't render the known rows: an inpainting model needs an init image.
            log.info("%s can't be certified: %s", choice.model_name, error)
            return
        if not certificate.holds:
            found = {
                "independence": f"depend on the batch; {HOW_TO_KEEP_BITS}",
                "composition": "change even where the batch is the same",
            }
            log.warning(
                "on this device the pixels of %s %s (`imagemill certify --model %s` says where)",
                choice.model_name,
                found[certificate.promise],
                choice.model_name,
            )
        self._remembered.keep(environment.document(), certificate.document())
        self._record(known, certificate.document())

    def _record(self, environment: int, document: dict[str, Any]) -> None:
        self._database.run(
            lambda session: environments.record_certificate(session, environment, document)
        )
