"""Models with all that their ways of working take, and the specifications of these ways."""

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from imagemill.db.models.registry import load_registry
from imagemill.db.specs import ImageSpec
from tests.engine.pictures import Files, digest_of, left_half, scene
from tests.oracle.registered import Shop, spec_of
from tools.parity import ways_of_working
from tools.parity.ways_of_working import PIPELINES, Scenes, WayOracle

SLOTS = 2
FILES = Files(scene(), left_half())
SCENES = Scenes(picture=(digest_of(scene()), scene()), mask=(digest_of(left_half()), left_half()))
SCENE = SCENES.picture[0]
START = {"init_image": SCENE, "strength": 0.6}


class WayShop(Shop):
    """A shop of models with their ControlNets and IP-Adapters, and a bad one: `bad`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, slots=SLOTS)
        tables = [ways_of_working.registry_tables(name) for name in PIPELINES]
        bad = '[ip_adapters.bad]\nsource = "bad"\nweights = "ip-adapter.safetensors"'
        (folder / "models.toml").write_text("\n".join([*tables, bad]))

    def saved(self, name: str) -> Path:
        ways_of_working.save_model(name, self.folder)
        return self.folder / name

    def spoil(self, name: str) -> str:
        """Make `bad` an IP-Adapter that fails late: its attention fits, its projection does not.

        Returns its digest.
        """
        if not (self.folder / "bad").exists():
            adapter = shutil.copytree(self.folder / f"{name}_ip", self.folder / "bad")
            adapter /= "ip-adapter.safetensors"
            weights = {key: tensor.clone() for key, tensor in load_file(adapter).items()}
            weights["image_proj.norm.weight"] = weights["image_proj.norm.weight"][1:].clone()
            save_file(weights, adapter)
        return load_registry(self.settings).find_ip_adapter("bad").digest

    def spec(self, name: str, way: str = "", **changes: Any) -> ImageSpec:
        """A specification of a model's way of working; of plain text-to-image without one."""
        model = self.model(name)
        fields = ways_of_working.fields(way, name, SCENES, load_registry(self.settings))
        if way:
            fields["guidance_scale"] = ways_of_working.guidance_scale(name, way)
        return spec_of(model, **({"steps": 5} | fields | changes))

    def oracle(self, name: str, way: str) -> WayOracle:
        return WayOracle(name, way, self.folder, SCENES)
