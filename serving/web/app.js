// The playground: puts the parts together. What it asks for goes to the server that it came from, and nowhere else.

import { getKey, setKey } from "./api.js";
import { Conversation } from "./conversation.js";
import * as examples from "./examples.js";
import { Panel } from "./panel.js";
import { Tray, read } from "./pictures.js";
import { snippet } from "./snippets.js";
import { otherLanguage, whenTranslated, word } from "./words.js";

const element = (id) => document.getElementById(id);
const question = element("question");
let running = null; // the AbortController of the answer that comes
let limits = null;
let model = "";

const say = (text) => (element("said").textContent = text);
const conversation = new Conversation(element("conversation"), say);
const tray = new Tray(element("tray"), refreshCode);
const panel = new Panel({ onKey: () => askForKey(), onStatus: learn });
const shown = examples.show(element("example-list"), useExample);
whenTranslated(() => tray.draw());

function learn(status) {
  limits = status.limits;
  shown.grounding = !status.models.includes("onecard-demo");
  if (model === status.models[0]) return;
  model = status.models[0];
  refreshCode();
}

// Asking

element("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
question.addEventListener("keydown", (event) => {
  // While an input method composes, as for Chinese, Enter is its own.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  element("composer").requestSubmit();
});
// A field in closed settings cannot be shown by the browser, which would then send nothing and say nothing.
element("composer").addEventListener("invalid", (event) => (event.target.closest("details").open = true), true);
element("stop").addEventListener("click", () => running?.abort());
addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());

async function submit() {
  if (running) return;
  const asked = question.value.trim() || (tray.pictures.length ? word("describe") : "");
  if (!asked) return problem(word("needQuestion"), question);
  const count = conversation.pictures.length + tray.pictures.length;
  if (limits && count > limits.max_images_per_request) return problem(word("tooMany", limits.max_images_per_request));
  const options = settings();
  if (!options) return;
  problem("");
  const pictures = tray.take();
  question.value = "";
  element("examples").hidden = true;
  running = new AbortController();
  busy(true);
  try {
    await conversation.ask(asked, pictures, options, running.signal);
  } catch (error) {
    // Back into the composer, to be changed and asked again.
    question.value ||= asked;
    tray.add(...pictures);
    if (error.status === 401) askForKey();
    else if (error.status === undefined && error.name !== "AbortError") throw error;
  } finally {
    running = null;
    busy(false);
    refreshCode();
    panel.look();
  }
}

function busy(is) {
  const focused = document.activeElement;
  element("stop").hidden = !is;
  element("send").hidden = is;
  if (focused === element("send") || focused === element("stop")) (is ? element("stop") : question).focus();
}

function problem(text, focus) {
  element("problem").textContent = text;
  element("problem").hidden = !text;
  focus?.focus();
}

/** The request but for its messages; null, and said at the field, where the schema is not JSON. */
function settings() {
  const options = { model };
  if (element("temperature").value) options.temperature = Number(element("temperature").value);
  if (element("length").value) options.max_tokens = Number(element("length").value);
  const text = element("schema").value.trim();
  let wrong = "";
  try {
    if (text) options.response_format = { type: "json_schema", json_schema: { name: "answer", schema: JSON.parse(text) } };
  } catch (error) {
    wrong = word("schemaWrong", error.message);
  }
  const told = element("schema-problem");
  told.textContent = wrong;
  told.hidden = !wrong;
  element("schema").setAttribute("aria-invalid", String(Boolean(wrong)));
  if (!wrong) return options;
  told.closest("details").open = true;
  return null;
}

element("new").addEventListener("click", () => {
  running?.abort();
  conversation.clear();
  tray.take();
  question.value = "";
  problem("");
  element("examples").hidden = false;
  refreshCode();
  question.focus();
});

// Pictures

element("photograph").hidden = navigator.maxTouchPoints === 0; // elsewhere it would be a second "Add pictures"
element("choose").addEventListener("click", () => element("files").click());
element("photograph").addEventListener("click", () => element("camera").click());
for (const input of [element("files"), element("camera")])
  input.addEventListener("change", async () => {
    await addFiles([...input.files]);
    input.value = "";
  });
addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (!files.length) return;
  event.preventDefault();
  addFiles(files);
});
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  element("drop").hidden = false;
});
addEventListener("dragleave", (event) => event.relatedTarget ?? (element("drop").hidden = true));
addEventListener("drop", (event) => {
  element("drop").hidden = true;
  if (!carriesFiles(event)) return;
  event.preventDefault();
  addFiles([...event.dataTransfer.files]);
});

async function addFiles(files) {
  problem("");
  for (const file of files) {
    try {
      tray.add(await read(file, limits));
    } catch (error) {
      problem(error.message);
    }
  }
  if (tray.pictures.length) question.focus();
}

async function useExample(file, text, schema) {
  tray.take();
  question.value = text;
  element("schema").value = schema ? JSON.stringify(schema, null, 2) : "";
  tray.add(await read(file, limits));
  element("composer").requestSubmit();
}

// The request as code

function refreshCode() {
  if (!element("code").open) return;
  const options = settings();
  if (!options) return;
  const asked = question.value.trim() || word("describe");
  const body = { ...options, messages: conversation.with(asked, tray.pictures) };
  const language = document.querySelector("input[name=code]:checked").value;
  element("snippet").textContent = snippet(language, body, [...conversation.pictures, ...tray.pictures], Boolean(getKey()));
}
element("code").addEventListener("toggle", refreshCode);
element("composer").addEventListener("input", refreshCode);
element("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(element("snippet").textContent);
    say(word("copied"));
    element("copy").textContent = word("copied");
    setTimeout(() => (element("copy").textContent = word("copy")), 1500);
  } catch {
    getSelection().selectAllChildren(element("snippet")); // without https the browser has no clipboard: Ctrl+C then
  }
});

// The key

function askForKey() {
  const dialog = element("key-dialog");
  if (dialog.open) return;
  const wrong = getKey() ? word("keyWrong") : "";
  element("key-problem").textContent = wrong;
  element("key-problem").hidden = !wrong;
  dialog.showModal();
}
element("key").addEventListener("click", () => {
  element("key-problem").hidden = true;
  element("key-dialog").showModal();
});
element("key-cancel").addEventListener("click", () => element("key-dialog").close());
element("key-form").addEventListener("submit", () => {
  setKey(element("key-input").value.trim());
  element("key-input").value = "";
  refreshCode();
  panel.look();
});

// How the page looks

element("language").addEventListener("click", otherLanguage);
element("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme.startsWith("light dark")
    ? matchMedia("(prefers-color-scheme: dark)").matches
    : document.documentElement.dataset.theme === "dark";
  theme(dark ? "light" : "dark");
});

function theme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem("onecard-theme", name);
}
if (localStorage.getItem("onecard-theme")) theme(localStorage.getItem("onecard-theme"));

panel.look();
question.focus();
