"use strict";
// The gallery: a search, filters, the grid and the viewer, over any source of images.
//
// A source has `start(filter)` and `more()`, which give { images, done, total }, and the addresses
// `thumbnail(image)` and `picture(image)`, null where there is none.

class Explorer {
  // With `compared`, the names of two jobs, each image stands beside its `other`, that of the second.
  // `panel(image, index)` adds to what is shown beside a picture; `keys` are what further keys do.
  constructor(source, summary, { compared = null, panel = () => [], keys = {} } = {}) {
    this.source = source;
    this.command = summary.command;
    this.compared = compared;
    this.extraPanel = panel;
    this.keys = keys;
    this.filter = { words: [], bars: {}, order: null };
    this.images = [];
    this.query = 0;
    this.setSummary(summary);
    this.grid = new Grid(byId("grid"), {
      draw: (image) => this.tile(image),
      open: (index) => this.open(index),
      nearEnd: () => this.more(),
    });
    this.grid.across = compared ? 2 : 1;
    this.viewer = new Viewer({
      pictures: (image) => this.stage(image),
      panel: (image) => this.panel(image),
      moved: (index, before) => this.moved(index, before),
    });
    this.listen();
  }

  setSummary(summary) {
    this.summary = summary;
    this.histograms = summary.histograms.filter((each) => divides(each, summary.job));
    this.differing = new Set(this.histograms.filter((each) => each.bars.length > 1).map((each) => each.name));
    this.compares = Object.keys(COMPARED).some((name) => this.differing.has(name));
    drawSummary(summary, (name, bar) => this.choose(name, bar));
    this.drawFilters();
    this.grid?.setCaption(this.captionHeight);
  }

  get captionHeight() {
    return this.compares ? 82 : 64; // pixels
  }

  listen() {
    byId("toolbar").addEventListener("submit", (event) => event.preventDefault());
    byId("search").addEventListener("input", () => this.searchLater());
    byId("search").addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === "ArrowDown") {
        event.preventDefault();
        this.grid.focus(this.grid.current);
      }
    });
    byId("order").addEventListener("change", ({ target }) => {
      this.filter.order = this.orders[target.value] ?? null;
      this.refresh();
    });
    byId("size").addEventListener("input", (event) => this.grid.setTile(Number(event.target.value)));
    document.addEventListener("keydown", (event) => this.onKey(event));
    addEventListener("popstate", () => this.wentBack());
    document.addEventListener("click", (event) => {
      if (!byId("filters").contains(event.target)) byId("filters").open = false;
    });
    if (innerWidth < 600) byId("size").value = 160;
    this.grid.tile = Number(byId("size").value);
    this.grid.captionHeight = this.captionHeight;
  }

  // Filtering -----------------------------------------------------------------------------

  searchLater() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.filter.words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
      this.refresh();
    }, 150);
  }

  choose(name, bar) {
    if (bar) this.filter.bars[name] = bar;
    else delete this.filter.bars[name];
    this.drawFilters();
    this.refresh();
    if (bar) byId("gallery").scrollIntoView();
  }

  clear() {
    this.filter = { ...this.filter, words: [], bars: {} };
    byId("search").value = "";
    this.drawFilters();
    this.refresh();
  }

  get filtered() {
    return this.filter.words.length > 0 || this.filter.order !== null || Object.keys(this.filter.bars).length > 0;
  }

  drawFilters() {
    const lists = this.histograms.map(({ name, bars }) => this.filterList(name, bars));
    byId("filter-list").replaceChildren(...lists);
    byId("filters").hidden = !lists.length;
    this.drawOrders();
    const chips = Object.entries(this.filter.bars).map(([name, bar]) =>
      element(
        "button",
        {
          type: "button",
          class: "chip",
          onclick: () => this.choose(name, null),
          title: "Remove this filter",
        },
        `${titleOf(name)}: `,
        words(bar.label || "(empty)"),
        element("span", { class: "chip-x", "aria-hidden": "true", text: "×" }),
      ),
    );
    byId("chips").replaceChildren(...chips);
  }

  // By a score: only the pictures that have it, the highest or the lowest first.
  drawOrders() {
    const scores = this.summary.histograms.map((each) => each.name).filter((name) => name.startsWith("scores."));
    const names = scores.map((name) => titleOf(name));
    this.orders = names.flatMap((score) => [{ score }, { score, ascending: true }]);
    const titles = names.flatMap((name) => [`highest ${name}`, `lowest ${name}`]);
    const { order } = this.filter;
    const chosen = this.orders.findIndex((each) => order && each.score === order.score && each.ascending === order.ascending);
    byId("order").replaceChildren(
      element("option", { value: "", text: "in order" }),
      ...titles.map((text, place) => element("option", { value: place, text, selected: place === chosen })),
    );
    byId("order-label").hidden = !names.length;
  }

  filterList(name, bars) {
    const list = element(
      "select",
      { onchange: ({ target }) => this.choose(name, bars[target.value] ?? null) },
      element("option", { value: "", text: "any" }),
      ...bars.map((bar, place) =>
        element("option", { value: place, text: `${bar.label || "(empty)"} (${wholeNumber.format(bar.images)})`, selected: this.filter.bars[name]?.label === bar.label }),
      ),
    );
    return element("label", { class: "filter" }, words(titleOf(name)), list);
  }

  // Reading from the source ---------------------------------------------------------------

  async refresh() {
    this.query += 1;
    const query = this.query;
    let page;
    try {
      page = await this.source.start(this.filter);
    } catch (error) {
      return notify(error.message);
    }
    if (query !== this.query) return; // a newer question was asked meanwhile
    this.images = [...page.images];
    this.done = page.done;
    this.total = page.total;
    this.grid.show(this.images);
    this.say();
  }

  async more() {
    if (this.done || this.loading) return;
    this.loading = true;
    const query = this.query;
    try {
      const page = await this.source.more();
      if (query !== this.query) return;
      this.images.push(...page.images);
      this.done = page.done;
    } catch (error) {
      return notify(error.message);
    } finally {
      this.loading = false;
    }
    this.grid.extend();
    this.say();
  }

  say() {
    const found = this.images.length;
    const total = this.total ?? this.summary.job.requested;
    const more = this.done ? "" : "+";
    const all = count(total, "image");
    const beside = this.compared ? ` · left ${this.compared[0]}, right ${this.compared[1]}` : "";
    byId("count").textContent = (this.filtered ? `${wholeNumber.format(found)}${more} of ${all}` : all) + beside;
    const empty = byId("empty");
    empty.hidden = found > 0;
    empty.replaceChildren(
      this.filtered ? "No image is like that. " : this.summary.job.requested ? "No image is in this page." : "This job has no images.",
      this.filtered
        ? element("button", { type: "button", class: "link", text: "Show all", onclick: () => this.clear() })
        : "",
    );
  }

  // An image that became another one.
  replace(index, image) {
    this.images[index] = image;
    this.grid.redraw(index);
    if (this.viewer.index === index) byId("panel").replaceChildren(...this.panel(image));
  }

  // Drawing -------------------------------------------------------------------------------

  tile(image) {
    const frames = [this.frame(image), ...(this.compared ? [this.otherFrame(image)] : [])];
    return [
      element("span", { class: "frames" }, ...frames),
      words(image.prompt ?? "", "span", { class: "caption" }),
      element("span", { class: "details" }, words(image.row_key ?? `#${image.image_id}`), ` · ${this.mainFact(image)}`),
      this.compares ? element("span", { class: "details", text: differencesOf(image, this.differing) }) : null,
    ].filter(Boolean);
  }

  // What the pictures are ordered by, if that is a score; else the seed.
  mainFact(image) {
    const { order } = this.filter;
    return order ? `${order.score} ${rounded(image.scores?.[order.score])}` : seedsOf(image);
  }

  otherFrame(image) {
    return image.other ? this.frame(image.other) : element("span", { class: "frame missing", text: "not in the other job" });
  }

  frame(image) {
    const address = this.source.thumbnail(image);
    const badge = image.outcome && image.outcome !== "ok" ? element("span", { class: "badge", text: image.outcome }) : null;
    const tags = (image.tags ?? []).length ? element("span", { class: "badge tags", text: image.tags.join(" ") }) : null;
    if (!address) return this.missing(image);
    const picture = element("img", { src: address, alt: "", decoding: "async", loading: "lazy" });
    picture.addEventListener("error", () => picture.replaceWith(this.missing(image, "the file can't be read")));
    return element("span", { class: "frame" }, picture, badge, tags);
  }

  // Large, there is room to say what went wrong.
  failed(image) {
    const told = image.state === "dead" && image.error_message ? element("p", { class: "why" }, words(image.error_message)) : null;
    const place = this.missing(image);
    if (told) place.append(told);
    return place;
  }

  missing(image, why) {
    const reason = why ?? (image.state === "done" ? "no small copy in this page" : image.state === "dead" ? image.error_code : image.state);
    return element("span", { class: `frame missing missing-${image.state}`, text: reason });
  }

  stage(image) {
    if (!this.compared) return [this.large(image)];
    return [this.large(image), image.other ? this.large(image.other) : this.otherFrame(image)];
  }

  large(image) {
    const [address, small] = [this.source.picture(image), this.source.thumbnail(image)];
    if (!address && !small) return this.failed(image);
    const picture = element("img", { src: address ?? small, alt: image.prompt ?? "", draggable: "false" });
    picture.addEventListener("error", () => {
      // A report that was sent without its pictures still has the small ones.
      if (small && picture.src !== small) picture.src = small;
      else picture.replaceWith(this.missing(image, "the file can't be read"));
    });
    // As large as it is, even while only its small copy is there.
    picture.width = image.width;
    picture.height = image.height;
    return picture;
  }

  panel(image) {
    const run = runCommand(image);
    const buttons = [
      copyButton("Copy prompt", image.prompt ?? "", "Prompt"),
      copyButton("Copy seed", image.seed, "Seed"),
      copyButton("Copy reproduce command", reproduceCommand(image, this.command), "Command"),
      run ? copyButton("Copy run command", run, "Command") : null,
    ];
    return [
      words(image.prompt || "(no prompt)", "p", { class: "prompt", tabindex: "0" }),
      image.negative_prompt ? element("p", { class: "negative" }, element("b", { text: "Without: " }), words(image.negative_prompt)) : null,
      element("div", { class: "buttons" }, ...buttons),
      ...this.extraPanel(image, this.images.indexOf(image)),
      factTable(image, image.other, this.compared),
      element("p", { class: "quiet keys", text: "← → other pictures · + − 0 zoom · Esc closes · ? all keys" }),
    ].filter(Boolean);
  }

  // Moving --------------------------------------------------------------------------------

  open(index) {
    this.viewer.show(this.images, index);
  }

  // An open picture is a step of its own in the browser's history: "back" closes it.
  moved(index, before) {
    if (index === null && before !== null && before !== undefined) this.grid.focus(before);
    if (index !== null && index > this.images.length - 10) this.more();
    // The browser takes a step back in its own time. Until then its history stays as it is:
    // a second step back would leave the page. `wentBack` does what has become due.
    if (this.leaving) return;
    if (index === null) {
      this.leaving = Boolean(history.state?.viewer);
      if (this.leaving) history.back();
      else history.replaceState(null, "", location.pathname + location.search);
      return;
    }
    const address = `#image-${this.images[index].image_id}`;
    if (history.state?.viewer) history.replaceState({ viewer: true }, "", address);
    else history.pushState({ viewer: true }, "", address);
  }

  wentBack() {
    const { leaving } = this;
    this.leaving = false;
    // What was opened before the last picture's step had been taken back gets its step now.
    if (leaving && this.viewer.index !== null) this.moved(this.viewer.index);
    else if (location.hash.startsWith("#image-")) this.openAddressed();
    else if (byId("viewer").open) byId("viewer").close();
  }

  // An address that ends in #image-12 opens that picture.
  openAddressed() {
    const wanted = /^#image-(\d+)$/.exec(location.hash);
    if (!wanted) return;
    const index = this.images.findIndex((image) => String(image.image_id) === wanted[1]);
    if (!history.state?.viewer) history.replaceState(null, "", location.pathname + location.search);
    if (index >= 0) this.open(index);
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches?.("input, textarea, select");
    if (event.key === "?" && !typing) {
      event.preventDefault();
      toggleHelp();
    } else if (byId("help").open) {
      return; // the dialog's own keys
    } else if (event.key === "Escape" && !byId("viewer").open) {
      if (byId("filters").open) byId("filters").open = false;
      else if (this.filter.words.length || Object.keys(this.filter.bars).length || byId("search").value) this.clear();
      if (event.target === byId("search")) event.target.blur();
    } else if (event.key === "/" && !typing && !byId("viewer").open) {
      event.preventDefault();
      byId("search").focus();
      byId("search").select();
    } else if (!typing && Object.hasOwn(this.keys, event.key)) {
      event.preventDefault();
      const index = this.viewer.index ?? this.grid.current;
      if (this.images[index]) this.keys[event.key](this.images[index], index);
    } else if (!typing && event.target === document.body && event.key.startsWith("Arrow") && !byId("viewer").open) {
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") this.grid.focus(this.grid.current);
    }
  }
}

function copyButton(title, text, what) {
  return element("button", { type: "button", class: "button", text: title, onclick: () => copyText(text, what) });
}

function seedsOf({ seed, other }) {
  return other && other.seed !== seed ? `seed ${seed} | ${other.seed}` : `seed ${seed}`;
}

// With another image beside it, what differs between the two is marked. `jobs` are their titles.
function factTable(image, other, jobs) {
  const [own, others] = [new Map(factsOf(image)), new Map(other ? factsOf(other) : [])];
  const rows = [...new Set([...own.keys(), ...others.keys()])].map((name) => {
    const values = other ? [own.get(name), others.get(name)] : [own.get(name)];
    const differs = name !== "Image" && new Set(values.map(String)).size > 1;
    return element(
      "tr",
      { class: differs ? "differs" : null },
      element("th", { scope: "row" }, words(name)),
      ...values.map((value) => element("td", {}, words(String(value ?? "")))),
    );
  });
  const head = element("tr", {}, element("td"), ...(jobs ?? []).map((job) => element("th", { scope: "col", text: job })));
  return element("table", { class: "facts" }, other ? element("thead", {}, head) : null, element("tbody", {}, ...rows));
}
