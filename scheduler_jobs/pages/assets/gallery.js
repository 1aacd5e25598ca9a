"use strict";
// The live gallery: images come from the server page by page, and what changes is looked up again.

const LOOK_AGAIN_SECONDS = 3;
const FIGURES_SECONDS = 0.7; // then the pictures of a large job are shown before its figures
const MOST_IDS = 100; // in one address

const wait = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

class ServerSource {
  constructor(job, other) {
    this.job = job;
    this.other = other;
  }

  async start(filter) {
    this.asked = new URLSearchParams({
      words: filter.words.join(" "),
      conditions: JSON.stringify(Object.entries(filter.bars).map(([name, bar]) => ({ ...bar, name }))),
    });
    if (this.other) this.asked.set("with", this.other);
    if (filter.order) this.asked.set("score", filter.order.score);
    if (filter.order?.ascending) this.asked.set("ascending", "1");
    this.after = undefined;
    return this.more();
  }

  async more() {
    const asked = new URLSearchParams(this.asked);
    if (this.after !== undefined) asked.set("after", this.after);
    const page = await answerOf(`/api/jobs/${this.job}/images?${asked}`);
    this.after = page.after ?? undefined;
    return { images: page.images, done: page.after === null };
  }

  // The same images as they are now.
  async again(images) {
    const asked = new URLSearchParams({ ids: images.map((image) => image.image_id).join(",") });
    if (this.other) asked.set("with", this.other);
    return (await answerOf(`/api/images?${asked}`)).images;
  }

  thumbnail(image) {
    return image.sha256 ? `/thumbnails/${image.image_id}?v=${image.sha256}` : null;
  }

  picture(image) {
    return image.sha256 ? `/pictures/${image.image_id}?v=${image.sha256}` : null;
  }
}

async function answerOf(address, options) {
  const answer = await fetch(address, options).catch(() => {
    throw new Error("the gallery does not answer: does `imagemill gallery` still run?");
  });
  if (!answer.ok) throw new Error((await answer.text()).trim() || `the gallery answered ${answer.status}`);
  return answer.json();
}

// Jobs to choose from; the second list puts another job's pictures beside these.
function jobLists(jobs, job, other) {
  const go = (first, second) => location.assign(`/jobs/${first}${second ? `?with=${second}` : ""}`);
  const named = (each) => element("option", { value: each.job_id, text: `${each.job_id} · ${each.job_name}` });
  const first = element("select", { "aria-label": "Job", onchange: ({ target }) => go(target.value, null) }, ...jobs.map(named));
  first.value = job;
  const second = element(
    "select",
    { "aria-label": "Compare with", id: "with", onchange: ({ target }) => go(job, target.value) },
    element("option", { value: "", text: "compare with …" }),
    ...jobs.filter((each) => each.job_id !== job).map(named),
  );
  second.value = other ?? "";
  return jobs.length > 1 ? [first, second] : [first];
}

// While a job is at work, its counts and the pictures that are looked at are read again.
async function lookAgain(explorer, source, top) {
  const { job } = explorer.summary;
  if (document.hidden || !["loading", "open", "paused"].includes(job.state)) return;
  const summary = await answerOf(`/api/jobs/${source.job}`);
  const before = JSON.stringify(job.counts);
  if (JSON.stringify(summary.job.counts) === before && summary.job.state === job.state) return;
  explorer.setSummary(summary);
  drawTop(summary, ...top);
  const seen = [...explorer.grid.tiles.keys()].slice(0, MOST_IDS);
  const loaded = job.state === "loading" && summary.job.state !== "loading"; // it has more images now
  if (!seen.length || loaded) return void explorer.refresh();
  const images = await source.again(seen.map((index) => explorer.images[index]));
  const byNumber = new Map(images.map((image) => [image.image_id, image]));
  for (const index of seen) {
    const image = byNumber.get(explorer.images[index]?.image_id);
    if (image && image.state !== explorer.images[index].state) explorer.replace(index, image);
  }
}

// Tags: the only thing that this page changes.

const TAG_KEYS = { k: "keep", x: "reject" };
KEYS.splice(-1, 0, ["k", "tag keep, or take it away"], ["x", "the same with reject"], ["t", "type any tag"], [".", "the last typed tag again"]);
let lastTag = null;

async function toggleTag(explorer, index, tag) {
  const image = explorer.images[index];
  const on = !(image.tags ?? []).includes(tag);
  try {
    const { tags } = await answerOf(`/api/images/${image.image_id}/tags`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ tag, on }),
    });
    explorer.replace(index, { ...explorer.images[index], tags });
    countTagsLater(explorer);
    notify(on ? `image ${image.image_id} is tagged ${tag}` : `tag ${tag} taken from image ${image.image_id}`);
    return true;
  } catch (error) {
    notify(error.message);
    return false;
  }
}

// Once for many tags that are given one after another.
let countTimer = 0;

function countTagsLater(explorer) {
  clearTimeout(countTimer);
  countTimer = setTimeout(async () => {
    explorer.setSummary(await answerOf(`/api/jobs/${explorer.source.job}`));
  }, 1000);
}

// `k` keeps, `x` rejects, `t` goes to the field for any tag, `.` gives the last of those again.
function tagKeys(explorer) {
  const keys = { t: (image, index) => typeTag(explorer(), index), ".": (image, index) => lastTag && toggleTag(explorer(), index, lastTag) };
  for (const [key, tag] of Object.entries(TAG_KEYS)) keys[key] = (image, index) => toggleTag(explorer(), index, tag);
  return keys;
}

function typeTag(explorer, index) {
  if (!byId("viewer").open) explorer.open(index);
  byId("new-tag").focus();
}

function tagEditor(explorer, image, index) {
  const others = (image.tags ?? []).filter((tag) => !Object.values(TAG_KEYS).includes(tag));
  const chips = others.map((tag) =>
    element(
      "button",
      { type: "button", class: "chip", title: "Take this tag away", onclick: () => toggleTag(explorer, index, tag) },
      words(tag),
      element("span", { class: "chip-x", "aria-hidden": "true", text: "×" }),
    ),
  );
  const field = element("input", { id: "new-tag", class: "new-tag", type: "text", maxlength: 64, placeholder: "add a tag ( t )", "aria-label": "Add a tag", autocomplete: "off", spellcheck: "false" });
  field.addEventListener("keydown", async (event) => {
    if (event.key !== "Enter" || !field.value.trim()) return;
    const tag = field.value.trim();
    if ((image.tags ?? []).includes(tag)) return;
    if (await toggleTag(explorer, index, tag)) {
      lastTag = tag;
      byId("close").focus();
    }
  });
  const known = Object.entries(TAG_KEYS).map(([key, tag]) =>
    element("button", { type: "button", class: "button", text: `${tag} ( ${key} )`, "aria-pressed": String((image.tags ?? []).includes(tag)), onclick: () => toggleTag(explorer, index, tag) }),
  );
  return element("div", { class: "tags-line" }, ...known, ...chips, field);
}

async function startGallery() {
  const asked = decodeURIComponent(location.pathname.split("/")[2]);
  const other = new URLSearchParams(location.search).get("with");
  const jobs = await answerOf("/api/jobs");
  if (!jobs.length) {
    byId("top").append(element("h1", { text: "imagemill" }), element("p", { class: "empty", text: "There is no job yet." }));
    byId("toolbar").hidden = true;
    const look = () => answerOf("/api/jobs").then((found) => found.length && location.reload());
    setInterval(() => look().catch(() => {}), LOOK_AGAIN_SECONDS * 1000);
    return;
  }
  const address = `/api/jobs/${encodeURIComponent(asked)}`;
  const whole = answerOf(address);
  const summary = await Promise.race([whole, wait(FIGURES_SECONDS).then(() => answerOf(`${address}?quick=1`))]);
  const source = new ServerSource(summary.job.job_id, other);
  const top = jobLists(jobs, summary.job.job_id, other);
  drawTop(summary, ...top);
  const explorer = new Explorer(source, summary, {
    compared: other ? [`job ${summary.job.job_id}`, `job ${other}`] : null,
    panel: (image, index) => [tagEditor(explorer, image, index)],
    keys: tagKeys(() => explorer),
  });
  window.explorer = explorer;
  await explorer.refresh();
  explorer.openAddressed();
  explorer.setSummary(await whole);
  setInterval(() => lookAgain(explorer, source, top).catch((error) => notify(error.message)), LOOK_AGAIN_SECONDS * 1000);
}

startGallery().catch((error) => {
  const newest = element("a", { class: "link", href: "/", text: "Show the newest job" });
  byId("top").append(element("h1", { text: "imagemill" }), element("p", { class: "empty" }, error.message, " · ", newest));
  byId("toolbar").hidden = true;
});
