"use strict";
// One picture, as large as wanted, with everything that is known of it.

const ZOOM_STEP = 1.5;
const MOST_ZOOM = 32;

class Viewer {
  // `pictures(image)` gives the addresses to show, `panel(image)` the elements beside them, and
  // `moved(index)` is told which image is shown, or null.
  constructor({ pictures, panel, moved }) {
    this.dialog = byId("viewer");
    this.stage = byId("stage");
    this.pictures = pictures;
    this.panel = panel;
    this.moved = moved;
    this.items = [];
    this.index = null;
    byId("close").addEventListener("click", () => this.dialog.close());
    byId("previous").addEventListener("click", () => this.move(-1));
    byId("next").addEventListener("click", () => this.move(1));
    byId("larger").addEventListener("click", () => this.zoom(ZOOM_STEP));
    byId("smaller").addEventListener("click", () => this.zoom(1 / ZOOM_STEP));
    byId("fit").addEventListener("click", () => this.fit());
    this.dialog.addEventListener("close", () => this.closed());
    this.dialog.addEventListener("keydown", (event) => this.onKey(event));
    this.stage.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    this.stage.addEventListener("dblclick", () => (this.scale === null ? this.zoom(2) : this.fit()));
    this.stage.addEventListener("pointerdown", (event) => this.drag(event));
  }

  get image() {
    return this.index === null ? null : this.items[this.index];
  }

  show(items, index) {
    this.items = items;
    this.index = index;
    const image = this.image;
    byId("viewer-title").textContent = nameOf(image);
    byId("previous").disabled = index === 0;
    byId("next").disabled = index === items.length - 1;
    this.stage.replaceChildren(...this.pictures(image));
    byId("panel").replaceChildren(...this.panel(image));
    byId("panel").scrollTop = 0;
    this.fit();
    if (!this.dialog.open) this.dialog.showModal();
    if (document.activeElement?.disabled) byId("close").focus();
    this.moved(index);
  }

  move(step) {
    const target = this.index + step;
    if (target >= 0 && target < this.items.length) this.show(this.items, target);
  }

  closed() {
    // The browser says it a little later; the dialog may show the next picture by now.
    if (this.dialog.open) return;
    const index = this.index;
    this.index = null;
    this.stage.replaceChildren();
    this.moved(null, index);
  }

  fit() {
    this.scale = null;
    this.stage.classList.remove("zoomed");
    this.frames().forEach((frame) => {
      frame.style.width = "";
      frame.style.height = "";
    });
  }

  // Around the middle of what is seen, so that it stays where it is.
  zoom(factor) {
    const [first] = this.frames();
    if (!first || !first.naturalWidth) return;
    const now = this.scale ?? first.getBoundingClientRect().width / first.naturalWidth;
    const wanted = Math.min(MOST_ZOOM, now * factor);
    if (this.scale === null && factor < 1) return;
    const { stage } = this;
    const middle = (at, size, whole) => (at + size / 2) / Math.max(1, whole);
    const x = middle(stage.scrollLeft, stage.clientWidth, stage.scrollWidth);
    const y = middle(stage.scrollTop, stage.clientHeight, stage.scrollHeight);
    this.scale = wanted;
    stage.classList.add("zoomed");
    this.frames().forEach((frame) => {
      frame.style.width = `${frame.naturalWidth * wanted}px`;
      frame.style.height = `${frame.naturalHeight * wanted}px`;
      frame.classList.toggle("pixels", wanted >= 3);
    });
    stage.scrollLeft = x * stage.scrollWidth - stage.clientWidth / 2;
    stage.scrollTop = y * stage.scrollHeight - stage.clientHeight / 2;
  }

  frames() {
    return [...this.stage.querySelectorAll("img")];
  }

  onWheel(event) {
    if (!event.ctrlKey && this.scale !== null) return; // it scrolls
    event.preventDefault();
    this.zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2);
  }

  // A mouse pulls the picture; fingers scroll it by themselves.
  drag(event) {
    if (event.pointerType !== "mouse" || this.scale === null || event.button !== 0) return;
    event.preventDefault();
    this.stage.setPointerCapture(event.pointerId);
    const pull = (moved) => {
      this.stage.scrollLeft -= moved.movementX;
      this.stage.scrollTop -= moved.movementY;
    };
    this.stage.addEventListener("pointermove", pull);
    const release = () => this.stage.removeEventListener("pointermove", pull);
    this.stage.addEventListener("pointerup", release, { once: true });
    this.stage.addEventListener("pointercancel", release, { once: true });
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea")) return;
    const actions = {
      ArrowLeft: () => this.move(-1),
      ArrowRight: () => this.move(1),
      "+": () => this.zoom(ZOOM_STEP),
      "=": () => this.zoom(ZOOM_STEP),
      "-": () => this.zoom(1 / ZOOM_STEP),
      0: () => this.fit(),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }
}
