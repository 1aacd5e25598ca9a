"use strict";
// A grid of any number of tiles: only those that can be seen are in the page.

const GAP = 14;
const ROWS_AROUND = 2; // above and below the window, so that scrolling finds them drawn

class Grid {
  // `draw(item, index)` makes a tile's contents, `open(index)` is called for a chosen tile, and
  // `nearEnd()` when the last tiles come into view.
  constructor(place, { draw, open, nearEnd }) {
    this.place = place;
    this.draw = draw;
    this.open = open;
    this.nearEnd = nearEnd;
    this.items = [];
    this.tiles = new Map();
    this.tile = 192; // pixels
    this.captionHeight = 64;
    this.across = 1; // pictures beside each other in one tile
    this.current = 0;
    this.columns = 1;
    addEventListener("scroll", () => this.later(), { passive: true });
    new ResizeObserver(() => this.relayout()).observe(place);
    place.addEventListener("keydown", (event) => this.onKey(event));
  }

  show(items) {
    this.items = items;
    this.current = 0;
    this.clear();
    this.relayout();
  }

  extend() {
    this.relayout();
  }

  setTile(pixels) {
    // The picture that was at the top of the window stays there.
    const first = this.firstVisible();
    this.tile = pixels;
    this.relayout();
    if (first > 0) this.scrollTo(first);
  }

  // Tiles with another number of lines: all are drawn again.
  setCaption(pixels) {
    if (pixels === this.captionHeight) return;
    this.captionHeight = pixels;
    this.clear();
    this.relayout();
  }

  // Draw one tile again; what has the focus keeps it.
  redraw(index) {
    this.button(index)?.replaceChildren(...this.draw(this.items[index], index));
  }

  clear() {
    this.tiles.forEach((node) => node.remove());
    this.tiles.clear();
  }

  relayout() {
    const width = this.place.clientWidth;
    const wanted = Math.min(this.tile * this.across, width);
    this.columns = Math.max(1, Math.floor((width + GAP) / (wanted + GAP)));
    this.tileWidth = (width - GAP * (this.columns - 1)) / this.columns;
    this.rowHeight = Math.round(this.tileWidth / this.across) + this.captionHeight + GAP;
    const rows = Math.ceil(this.items.length / this.columns);
    this.place.style.height = `${Math.max(0, rows * this.rowHeight - GAP)}px`;
    this.tiles.forEach((node, index) => this.put(node, index));
    this.render();
  }

  later() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.render();
    });
  }

  render() {
    if (!this.columns || !this.items.length) return;
    const top = this.place.getBoundingClientRect().top;
    const firstRow = Math.max(0, Math.floor(-top / this.rowHeight) - ROWS_AROUND);
    const lastRow = Math.ceil((innerHeight - top) / this.rowHeight) + ROWS_AROUND;
    const first = firstRow * this.columns;
    const end = Math.min(this.items.length, lastRow * this.columns);
    this.tiles.forEach((node, index) => {
      if ((index < first || index >= end) && !node.contains(document.activeElement)) {
        node.remove();
        this.tiles.delete(index);
      }
    });
    for (let index = first; index < end; index += 1) {
      if (!this.tiles.has(index)) this.add(index);
    }
    if (end === this.items.length) this.nearEnd();
  }

  add(index) {
    const button = element(
      "button",
      {
        type: "button",
        class: "tile-button",
        tabindex: index === this.current ? "0" : "-1",
        onclick: () => this.open(index),
        onfocus: () => this.mark(index),
      },
      ...this.draw(this.items[index], index),
    );
    const tile = element(
      "div",
      { class: "tile", role: "listitem", "aria-posinset": index + 1, "aria-setsize": this.items.length },
      button,
    );
    this.put(tile, index);
    this.tiles.set(index, tile);
    // In the order of the images, so that a reader of the page goes through them in order.
    const after = [...this.place.children].find((node) => Number(node.dataset.index) > index);
    this.place.insertBefore(tile, after ?? null);
  }

  put(tile, index) {
    const column = index % this.columns;
    const row = Math.floor(index / this.columns);
    tile.dataset.index = index;
    tile.style.width = `${this.tileWidth}px`;
    tile.style.height = `${this.rowHeight - GAP}px`;
    tile.style.transform = `translate(${column * (this.tileWidth + GAP)}px, ${row * this.rowHeight}px)`;
  }

  mark(index) {
    this.button(this.current)?.setAttribute("tabindex", "-1");
    this.current = index;
    this.button(index)?.setAttribute("tabindex", "0");
  }

  button(index) {
    return this.tiles.get(index)?.firstElementChild;
  }

  focus(index) {
    const wanted = Math.min(Math.max(0, index), this.items.length - 1);
    if (wanted < 0) return;
    this.scrollTo(wanted, { onlyIfHidden: true });
    this.render();
    this.mark(wanted);
    this.button(wanted)?.focus({ preventScroll: true });
  }

  firstVisible() {
    const top = this.place.getBoundingClientRect().top;
    return top >= 0 ? 0 : Math.ceil(-top / this.rowHeight) * this.columns;
  }

  scrollTo(index, { onlyIfHidden = false } = {}) {
    const head = document.querySelector(".toolbar").offsetHeight + GAP;
    const top = this.place.getBoundingClientRect().top + Math.floor(index / this.columns) * this.rowHeight;
    const bottom = top + this.rowHeight;
    if (onlyIfHidden && top >= head && bottom <= innerHeight) return;
    const below = onlyIfHidden && bottom > innerHeight ? bottom - innerHeight : top - head;
    scrollBy({ top: below, behavior: "instant" });
  }

  onKey(event) {
    const page = this.columns * Math.max(1, Math.floor(innerHeight / this.rowHeight) - 1);
    const steps = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -this.columns,
      ArrowDown: this.columns,
      PageUp: -page,
      PageDown: page,
      Home: -Infinity,
      End: Infinity,
    };
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const target = this.current + steps[event.key];
    if (Math.abs(steps[event.key]) !== Infinity && (target < 0 || target >= this.items.length)) return;
    this.focus(target);
  }
}
