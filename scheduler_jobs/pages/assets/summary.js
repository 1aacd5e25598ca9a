"use strict";
// The figures of a job: counts, images over time, failures, and a histogram of each parameter.

function drawTop(summary, ...more) {
  const { job } = summary;
  document.title = `${job.job_name}: job ${job.job_id}`;
  byId("top").replaceChildren(
    element(
      "div",
      { class: "top-line" },
      words(job.job_name, "h1", { title: job.job_name }),
      element("span", { class: `state state-${job.state === "finished" && job.counts.dead ? "failed" : job.state}`, text: job.state }),
      element("span", { class: "push" }),
      ...more,
      helpButton(),
      themeButton(),
    ),
    element("p", { class: "quiet" }, `job ${job.job_id} · `, words(job.manifest.split("/").pop()), ` · ${timesOf(summary)}`),
  );
}

function timesOf({ job, throughput }) {
  const begun = `created ${moment(job.created_at)}`;
  return throughput ? `${begun} · last picture ${moment(endOf(throughput))}` : begun;
}

function endOf({ start, seconds, images }) {
  return new Date(new Date(start).getTime() + seconds * images.length * 1000).toISOString();
}

// `choose(name, bar)` filters the pictures below by one bar of a histogram.
function drawSummary(summary, choose) {
  // The panel of failures has the error codes.
  const shown = summary.histograms.filter((each) => each.name !== "error_code");
  const compared = shown.filter((each) => divides(each, summary.job));
  const same = shown.filter((each) => !compared.includes(each));
  const before = document.querySelector(".figures");
  const figures = element(
    "details",
    { class: "figures", open: before ? before.open : innerWidth > 700 },
    element("summary", { text: "Figures" }),
    element(
      "div",
      { class: "panels" },
      throughputPanel(summary.throughput),
      failurePanel(summary),
      ...compared.map((each) => histogramPanel(each, choose)),
    ),
    same.length ? sameForAll(same) : null,
  );
  byId("summary").replaceChildren(countTiles(summary), figures);
}

// Whether a histogram divides the images of a job: by several values, or into those that have one.
function divides({ bars, others }, job) {
  return bars.length > 1 || others > 0 || bars[0].images < job.requested;
}

function countTiles({ job, throughput, histograms }) {
  const { counts } = job;
  const outcomes = histograms.find((each) => each.name === "outcome")?.bars ?? [];
  const flawed = outcomes.filter((bar) => bar.value !== "ok").reduce((sum, bar) => sum + bar.images, 0);
  const tiles = [
    ["requested", job.requested],
    ["done", counts.done, counts.done ? "good" : ""],
    ["waiting or in work", counts.ready + counts.leased, "", true],
    ["dead", counts.dead, counts.dead ? "bad" : ""],
    ["cancelled", counts.cancelled, "", true],
    ["done, but not ok", flawed, "warn", true],
  ];
  const shown = tiles.filter(([, value, , optional]) => value > 0 || !optional);
  const made = shown.map(([title, value, kind]) => countTile(title, wholeNumber.format(value), kind));
  if (throughput && throughput.images.length > 1) {
    const { seconds, images } = throughput;
    // The images of the first batch finish together: they tell nothing of the rate.
    const after = images.slice(1).reduce((sum, each) => sum + each, 0) / (seconds * (images.length - 1));
    made.push(countTile("images/s", Number(after.toPrecision(3))), countTile("first to last", duration(seconds * images.length)));
  }
  return element("dl", { class: "counts" }, ...made);
}

function countTile(title, value, kind = "") {
  return element("div", { class: `count-tile ${kind}` }, element("dt", { text: title }), element("dd", { text: value }));
}

function panel(title, ...children) {
  return element("section", { class: "panel-card" }, element("h2", {}, words(title)), ...children);
}

function throughputPanel(throughput) {
  if (!throughput) return panel("Images over time", element("p", { class: "quiet", text: "No image is done yet." }));
  const { images, seconds } = throughput;
  const most = Math.max(...images);
  const [width, height] = [300, 90];
  const step = width / images.length;
  const bars = images.map((number, place) =>
    drawing(
      "rect",
      {
        x: place * step,
        width: Math.max(0.5, step - 1),
        y: height - (number / most) * height,
        height: (number / most) * height,
        class: "bar",
      },
      drawing("title", { text: `${count(number, "image")} from ${duration(place * seconds)} on` }),
    ),
  );
  const about = `${count(most, "image")} in the best ${duration(seconds)}; ${duration(seconds * images.length)} in all`;
  return panel(
    "Images over time",
    drawing(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": about, class: "chart", preserveAspectRatio: "none" },
      ...bars,
    ),
    element(
      "p",
      { class: "axis" },
      element("span", { text: moment(throughput.start).slice(11, 19) }),
      element("span", { text: `most: ${count(most, "image")} in ${duration(seconds)}` }),
      element("span", { text: moment(endOf(throughput)).slice(11, 19) }),
    ),
  );
}

function failurePanel({ failures, job }) {
  const rows = failures.map(({ code, images, message }) =>
    element(
      "tr",
      {},
      element("th", { scope: "row", text: code }),
      element("td", { class: "number", text: wholeNumber.format(images) }),
      element("td", {}, words(message ?? "")),
    ),
  );
  const refused = job.bad_rows
    ? element("p", { class: "quiet", text: `${count(job.bad_rows, "row")} of the manifest could not be read.` })
    : null;
  const table = rows.length
    ? element("table", { class: "failures" }, element("tbody", {}, ...rows))
    : element("p", { class: "quiet", text: "No image failed." });
  return panel("Failures", table, refused);
}

function histogramPanel({ name, bars, others }, choose) {
  if (bars[0].low !== null) return rangesPanel(name, bars, choose);
  const most = Math.max(...bars.map((bar) => bar.images), others);
  const rows = bars.map((bar) => histogramRow(bar, most, () => choose(name, bar)));
  if (others) rows.push(histogramRow({ label: "others", images: others }, most));
  return panel(titleOf(name), element("div", { class: "histogram" }, ...rows));
}

// Ranges of numbers stand beside each other, as on a ruler.
function rangesPanel(name, bars, choose) {
  const most = Math.max(...bars.map((bar) => bar.images));
  const columns = bars.map((bar) => {
    const fill = element("span", { class: "fill" });
    fill.style.height = `${(100 * bar.images) / most}%`;
    const about = `${bar.label}: ${count(bar.images, "image")}`;
    return element(
      "button",
      { type: "button", class: "range", title: about, "aria-label": about, onclick: () => choose(name, bar), disabled: bar.images === 0 },
      fill,
    );
  });
  return panel(
    titleOf(name),
    element("div", { class: "ranges" }, ...columns),
    element(
      "p",
      { class: "axis" },
      element("span", { text: bars[0].low }),
      element("span", { text: `most: ${count(most, "image")}` }),
      element("span", { text: bars.at(-1).high }),
    ),
  );
}

function histogramRow(bar, most, chosen) {
  const fill = element("span", { class: "fill" });
  fill.style.width = `${(100 * bar.images) / most}%`;
  return element(
    chosen ? "button" : "div",
    chosen
      ? { type: "button", class: "histogram-row", onclick: chosen, title: "Show these pictures", disabled: bar.images === 0 }
      : { class: "histogram-row" },
    words(bar.label || "(empty)", "span", { class: "label", title: bar.label }),
    element("span", { class: "track" }, fill),
    element("span", { class: "number", text: wholeNumber.format(bar.images) }),
  );
}

function sameForAll(histograms) {
  const parts = histograms.flatMap(({ name, bars }, place) => [
    place ? " · " : "",
    `${titleOf(name).toLowerCase()} `,
    words(bars[0].label, "b"),
  ]);
  return element("p", { class: "same quiet" }, "The same for all: ", ...parts);
}
