"use strict";
// What a page says of an image: its captions, whether a filter takes it, and commands to render it.

const TITLES = {
  state: "State",
  outcome: "Outcome",
  error_code: "Error",
  model: "Model",
  sampler: "Sampler",
  steps: "Steps",
  guidance_scale: "Guidance",
  size: "Size",
  tags: "Tags",
};

function titleOf(name) {
  return TITLES[name] ?? name.replace(/^(extras|scores)\./, "");
}

// The value of a histogram's column: `size` is made of two, `extras.mood` is the manifest's own.
function valueOf(image, name) {
  if (name === "size") return `${image.width}x${image.height}`;
  if (name === "error_code" && image.state !== "dead") return undefined;
  const dot = name.indexOf(".");
  if (dot < 0) return image[name];
  return image[name.slice(0, dot)]?.[name.slice(dot + 1)];
}

// `filter.words` must all be in the prompts or ids; `filter.bars` are bars of histograms by column.
function isTaken(image, filter) {
  for (const [name, bar] of Object.entries(filter.bars)) {
    if (!isInBar(valueOf(image, name), bar)) return false;
  }
  if (!filter.words.length) return true;
  const text = searchable(image);
  return filter.words.every((word) => isNamed(image, word) || text.includes(word));
}

function isInBar(value, bar) {
  if (bar.low === null) {
    return Array.isArray(value) ? value.includes(bar.value) : value === bar.value;
  }
  return typeof value === "number" && value >= bar.low && value < bar.high;
}

function isNamed(image, word) {
  return word === `#${image.image_id}`;
}

function searchable(image) {
  image.searchable ??= `${image.prompt ?? ""}\n${image.negative_prompt ?? ""}\n${image.row_key ?? ""}`.toLowerCase();
  return image.searchable;
}

function nameOf(image) {
  return `image ${image.image_id} · ${image.row_key ?? `row ${image.row_number}`}`;
}

const COMPARED = {
  model: (image) => image.model,
  sampler: (image) => image.sampler,
  guidance_scale: (image) => `g ${image.guidance_scale}`,
  steps: (image) => `${image.steps} steps`,
  size: (image) => `${image.width}×${image.height}`,
};

// The parameters in which the images of this page differ, as one line: `ddim · g 7.5`.
function differencesOf(image, differing) {
  const names = Object.keys(COMPARED).filter((name) => differing.has(name));
  return names.map((name) => COMPARED[name](image)).join(" · ");
}

// Everything that is known of an image, as pairs of a title and a text.
function factsOf(image) {
  return [
    ["Image", image.image_id],
    ["Row", image.row_key ? `${image.row_key} (row ${image.row_number})` : image.row_number],
    ["Sample", image.sample_index],
    ["State", image.state],
    ["Outcome", image.outcome],
    ["Tags", (image.tags ?? []).join(", ")],
    ["Error", [image.error_code, image.error_message].filter(Boolean).join(": ")],
    ["Model", image.model],
    ["Seed", image.seed],
    ["Sampler", image.sampler],
    ["Steps", image.steps],
    ["Guidance", image.guidance_scale],
    ["Size", `${image.width} × ${image.height}`],
    ["Format", image.format],
    ...Object.entries(image.options ?? {}).map(([name, value]) => [name, shownValue(value)]),
    ...Object.entries(image.extras ?? {}).map(([name, value]) => [name, shownValue(value)]),
    ...Object.entries(image.scores ?? {}).map(([name, value]) => [name, rounded(value)]),
    ["SHA-256", image.sha256],
    ["File", image.file],
  ].filter(([, value]) => value !== undefined && value !== null && value !== "");
}

function shownValue(value) {
  return typeof value === "object" ? JSON.stringify(value) : value;
}

function rounded(value) {
  return typeof value === "number" ? Number(value.toPrecision(4)) : value;
}

// `imagemill --home out reproduce 12`: needs the database, and compares the pixels as well.
function reproduceCommand(image, command) {
  return `${command} reproduce ${image.image_id}`;
}

const RUN_FLAGS = {
  clip_skip: "--clip-skip",
  guidance_rescale: "--guidance-rescale",
  eta: "--eta",
  long_prompts: "--long-prompts",
  refiner_start: "--refiner-start",
};

// A `run` of the same request, without the database. None where a parameter has no plain flag.
function runCommand(image) {
  const flags = [
    ["--prompt", image.prompt ?? ""],
    ["--negative-prompt", image.negative_prompt],
    ["--model", image.model],
    ["--seeds", image.seed],
    ["--size", `${image.width}x${image.height}`],
    ["--steps", image.steps],
    ["--guidance-scale", image.guidance_scale],
    ["--sampler", image.sampler],
    ["--image-format", image.format === "png" ? undefined : image.format],
  ];
  for (const [name, value] of Object.entries(image.options ?? {})) {
    if (!(name in RUN_FLAGS)) return null;
    flags.push([RUN_FLAGS[name], value]);
  }
  const given = flags.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return `imagemill run ${given.map(([flag, value]) => `${flag} ${shellWord(String(value))}`).join(" ")} --out again`;
}

// A word as bash and zsh read it back. Characters that are not seen, or that turn others around,
// are written as escapes: what is pasted is what is shown.
function shellWord(text) {
  if (/^[\w@%+=:,./-]+$/.test(text)) return text;
  if (!/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u.test(text)) return `'${text.replaceAll("'", "'\\''")}'`;
  const escaped = Array.from(text, (character) => {
    if (character === "'" || character === "\\") return `\\${character}`;
    if (!/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u.test(character)) return character;
    const code = character.codePointAt(0).toString(16);
    return code.length <= 4 ? `\\u${code.padStart(4, "0")}` : `\\U${code.padStart(8, "0")}`;
  });
  return `$'${escaped.join("")}'`;
}
