"use strict";
// Elements, notices and the clipboard. Texts of a job are only ever set as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

// An element with attributes and children. `text` is its text; `onclick` and the like are listeners.
function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function drawing(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function byId(id) {
  return document.getElementById(id);
}

// A text of a manifest: its own direction, which does not reach the text beside it.
function words(text, tag = "span", attributes = {}) {
  return element(tag, { dir: "auto", ...attributes, class: `words ${attributes.class ?? ""}`, text });
}

let noticeTimer = 0;

function notify(text) {
  const place = byId("notice");
  // What lies over a modal dialog must be in it.
  (document.querySelector("dialog[open]") ?? document.body).append(place);
  place.textContent = text;
  place.classList.add("shown");
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => place.classList.remove("shown"), 2500);
}

async function copyText(text, what) {
  let copied = false;
  try {
    await navigator.clipboard.writeText(text);
    copied = true;
  } catch {
    copied = copiedBySelection(text);
  }
  notify(copied ? `${what} copied` : `${what} could not be copied`);
}

// Where the page has no right to the clipboard, as in some browsers for files.
function copiedBySelection(text) {
  const field = element("textarea", { class: "hidden", "aria-hidden": "true" });
  field.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  const before = document.activeElement;
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  before?.focus();
  return copied;
}

const wholeNumber = new Intl.NumberFormat("en-US");

function count(number, noun) {
  return `${wholeNumber.format(number)} ${noun}${number === 1 ? "" : "s"}`;
}

function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 172800) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

// In UTC, as every command prints times.
function moment(text) {
  return `${new Date(text).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

function themeButton() {
  const dark = () =>
    (document.documentElement.dataset.theme ??
      (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  return element("button", {
    type: "button",
    class: "round theme",
    "aria-label": "Switch between light and dark",
    title: "Light or dark",
    text: "◐",
    onclick: () => {
      document.documentElement.dataset.theme = dark() ? "light" : "dark";
      remember("theme", document.documentElement.dataset.theme);
    },
  });
}

// Where a page may keep nothing (some browsers, for files), it forgets.
function remember(name, value) {
  try {
    localStorage.setItem(`imagemill.${name}`, value);
  } catch {
    // see above
  }
}

function remembered(name) {
  try {
    return localStorage.getItem(`imagemill.${name}`);
  } catch {
    return null;
  }
}

if (["light", "dark"].includes(remembered("theme"))) document.documentElement.dataset.theme = remembered("theme");

// What keys do, as the gallery and the report have them; the gallery adds its own.
const KEYS = [
  ["/", "search"],
  ["← → ↑ ↓", "from picture to picture"],
  ["Home End PgUp PgDn", "further at once"],
  ["Enter", "open the picture"],
  ["+ − 0", "larger, smaller, fit"],
  ["Esc", "close; else show all pictures"],
  ["?", "this help"],
];

function helpButton() {
  return element("button", { type: "button", class: "round help-button", "aria-label": "Keys", title: "Keys (?)", text: "?", onclick: toggleHelp });
}

function toggleHelp() {
  const help = byId("help");
  if (help.open) return help.close();
  const rows = KEYS.map(([keys, does]) =>
    element("tr", {}, element("th", { scope: "row" }, ...keys.split(" ").map((key) => element("kbd", { text: key }))), element("td", { text: does })),
  );
  byId("help-keys").replaceChildren(element("tbody", {}, ...rows));
  help.showModal();
}
