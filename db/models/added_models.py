"""ControlNets and IP-Adapters: models beside a model, with a table of their own in the registry.

[controlnets.canny]                                     # a row names it: controlnet = canny
source = "lllyasviel/sd-controlnet-canny"               # a Hub id, or a folder
revision = "7f2f69197050967007f6bbd23ab5e52f0384162a"

[ip_adapters.plain]                                     # a model names it: ip_adapter = "plain"
source = "h94/IP-Adapter"
revision = "018e402774aeeddd60609b4ecdb7e298259dc729"
subfolder = "models"
weights = "ip-adapter_sd15.safetensors"
image_encoder = "models/image_encoder"                  # from the source's root, or elsewhere:
                                                        # { source = …, revision = … }
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints

from imagemill.db.errors import ModelError
from imagemill.db.models.adapter_files import check_controlnet, check_ip_adapter
from imagemill.db.models.headers import read_shapes
from imagemill.db.models.sources import check_revision, find_source, is_hub_id
from imagemill.db.models.weights import (
    component_files,
    digest_of_files,
    read_config,
    snapshot_folder,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEncoder:
    """The place of an IP-Adapter's image encoder: a folder, from the root of its source."""

    source: str
    revision: str | None
    folder: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedEntry:
    """A registered ControlNet or IP-Adapter.

    `weights` is the file of an IP-Adapter, and `image_encoder` the place of the encoder that reads
    its pictures; a ControlNet has neither. `pinned` is the digest that the registry gives.
    """

    name: str
    source: str
    revision: str | None
    subfolder: str
    variant: str | None
    weights: str | None
    image_encoder: ImageEncoder | None
    pinned: str | None
    cache: Path

    @property
    def root(self) -> Path:
        """The folder of its source on this machine. Raises `ModelError` if it is not there."""
        return self._root(self.source, self.revision)

    @property
    def encoder_folder(self) -> Path | None:
        """The folder of its image encoder on this machine, if it has one; errors as of `root`."""
        if self.image_encoder is None:
            return None
        place = self.image_encoder
        return self._root(place.source, place.revision) / place.folder

    def _root(self, source: str, revision: str | None) -> Path:
        hub = is_hub_id(source)
        root = snapshot_folder(self.cache, source, revision or "") if hub else Path(source)
        if root.is_dir():
            return root
        if hub:
            raise ModelError(
                f"{self.name}: not on this machine; run `imagemill models pull {self.name}`"
            )
        raise ModelError(f"{self.name}: {root}: no such folder")

    @property
    def class_name(self) -> str:
        """The diffusers class of a ControlNet; empty if its configuration does not say."""
        return str(read_config(self.root / self.subfolder).get("_class_name", ""))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the files that decide what it does.

        If they are not on this machine, the digest in the registry is returned. Raises `ModelError`
        if neither is there, or if the registry has another digest than the files.
        """
        try:
            found = digest_of_files(self._files(), self.cache)
        except ModelError:
            if self.pinned is not None:
                return self.pinned
            raise
        except OSError as error:
            raise ModelError(f"{self.name}: {error.filename}: {error.strerror}") from None
        if self.pinned not in (None, found):
            raise ModelError(
                f"{self.name}: the weights here are {found[:10]}…, the registry says "
                f"{str(self.pinned)[:10]}…; pull it again, or correct the registry"
            )
        return found

    @property
    def problem(self) -> str | None:
        """Why it can't be used here; None if its files are there and are what they are to be."""
        try:
            self._files()
        except ModelError as error:
            return error.message
        return self.flaw

    @property
    def flaw(self) -> str | None:
        """What is wrong inside its files; None if nothing is, or if they are not on this machine.

        Of weights only the headers are read.
        """
        try:
            files = self._files()
        except ModelError:
            return None
        weights = [path for path in files.values() if path.suffix == ".safetensors"]
        try:
            if self.weights is None:
                check_controlnet(weights)
                return None
            check_ip_adapter(files["weights"])
            for path in weights:  # the image encoder's too
                read_shapes(path)
        except ModelError as error:
            return f"{self.name}: {error.message}"
        return None

    def _files(self) -> dict[str, Path]:
        folder = self.root / self.subfolder
        if self.weights is None:
            files = {path.name: path for path in component_files(folder, self.variant)}
            if not any(name.endswith(".safetensors") for name in files):
                raise ModelError(f"{self.name}: {folder}: no weights")
            return files
        if not (folder / self.weights).is_file():
            raise ModelError(f"{self.name}: {folder / self.weights}: no such file")
        files = {"weights": folder / self.weights}
        encoder = self.encoder_folder
        if encoder is not None:
            for path in component_files(encoder, None):
                files[f"image_encoder/{path.name}"] = path
        return files


def _inside(value: str | None) -> str | None:
    path = PurePosixPath(value or "")
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{value}: not a path inside the source")
    return value


_Inside = Annotated[str, AfterValidator(_inside)]


class EncoderTable(BaseModel):
    """The place of an image encoder; without a source it is in its IP-Adapter's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[str, StringConstraints(min_length=1)] | None = None
    revision: str | None = None
    subfolder: _Inside = ""


def _as_table(value: Any) -> Any:
    return {"subfolder": value} if isinstance(value, str) else value


class AddedTable(BaseModel):
    """The table of a ControlNet or an IP-Adapter in the registry file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[str, StringConstraints(min_length=1)]
    revision: str | None = None
    subfolder: _Inside = ""
    variant: str | None = None
    weights: _Inside | None = None
    image_encoder: Annotated[EncoderTable | None, BeforeValidator(_as_table)] = None
    digest: str | None = None

    def entry(self, name: str, base: Path, cache: Path) -> AddedEntry:
        """The entry of this table, in a registry file of the folder `base`."""
        source = find_source(self.source, base)
        check_revision(name, source, self.revision)
        if self.weights is not None and not self.weights.endswith(".safetensors"):
            raise ModelError(f"{name}: {self.weights} is not a .safetensors file")
        values: dict[str, Any] = self.model_dump(exclude={"digest", "source", "image_encoder"})
        return AddedEntry(
            name=name,
            source=source,
            image_encoder=self._encoder(f"{name}: image_encoder", source, base),
            pinned=self.digest,
            cache=cache,
            **values,
        )

    def _encoder(self, where: str, own: str, base: Path) -> ImageEncoder | None:
        """The place of the image encoder; `own` is the source of the IP-Adapter itself."""
        place = self.image_encoder
        if place is None:
            return None
        if place.source is None:
            return ImageEncoder(source=own, revision=self.revision, folder=place.subfolder)
        source = find_source(place.source, base)
        check_revision(where, source, place.revision)
        return ImageEncoder(source=source, revision=place.revision, folder=place.subfolder)


def find_added(entries: Mapping[str, AddedEntry], named: Mapping[str, Any]) -> AddedEntry:
    """The entry that a group means by a name and a digest: by its name, else by its digest alone.

    Raises `ModelError` if none on this machine has the digest.
    """
    name, digest = str(named["name"]), named["digest"]
    first = [entries[name]] if name in entries else []
    for entry in (*first, *entries.values()):
        try:
            if entry.digest == digest and entry.problem is None:
                return entry
        except ModelError:
            continue  # another one, whose files are not here
    raise ModelError(f"nothing here has the digest {str(digest)[:10]}… that {name} meant")
