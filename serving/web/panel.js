// The live panel and the waiting notice: what /onecard/status and /metrics say, every two seconds while the page is seen.

import { metrics, status } from "./api.js";
import { known, whenTranslated, word } from "./words.js";

const TOKENS = "vllm:generation_tokens_total";
const FIRST_SUM = "onecard_first_token_seconds_sum";
const FIRST_COUNT = "onecard_first_token_seconds_count";
const STARTING = new Set(["starting", "warming", "restarting"]);
const element = (id) => document.getElementById(id);

export class Panel {
  /** `onKey` is called when the server asks for one; `onStatus` with every status. */
  constructor({ onKey, onStatus }) {
    Object.assign(this, { onKey, onStatus, status: null, state: "", speed: null, first: null, before: null, longest: 0 });
    whenTranslated(() => this.draw());
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
  }

  /** Looks now, and again and again. Several calls make one chain. */
  async look() {
    clearTimeout(this.timer);
    const turn = (this.turn = (this.turn ?? 0) + 1);
    try {
      this.status = await status();
      this.state = this.status.state;
      this.onStatus(this.status);
      this.measure(await metrics(TOKENS, FIRST_SUM, FIRST_COUNT));
    } catch (error) {
      if (error.status === undefined) throw error;
      this.state = error.status === 401 ? "key" : "unreachable";
      if (error.status === 401) this.onKey();
    } finally {
      this.draw();
      // Not after a missing key: that would be asked for again and again.
      if (turn === this.turn && !document.hidden && this.state !== "key")
        this.timer = setTimeout(() => this.look(), this.state === "ready" ? 2000 : 1000);
    }
  }

  /** Speeds from the difference to the last time; the first time to a token is of all answers so far. */
  measure(now) {
    const at = performance.now() / 1000;
    const { before } = this;
    if (now[TOKENS] === undefined) return; // the engine is not there yet
    const restarted = before && now[TOKENS] < before[TOKENS];
    if (before && !restarted) this.speed = (now[TOKENS] - before[TOKENS]) / (at - before.at);
    const since = before && !restarted ? before : { [FIRST_SUM]: 0, [FIRST_COUNT]: 0 };
    const answers = (now[FIRST_COUNT] ?? 0) - (since[FIRST_COUNT] ?? 0);
    if (answers > 0) this.first = (now[FIRST_SUM] - (since[FIRST_SUM] ?? 0)) / answers;
    this.before = { ...now, at };
  }

  draw() {
    const badge = element("state");
    const text = this.state && (known(`state_${this.state}`) ? word(`state_${this.state}`) : this.state);
    if (badge.textContent !== text) badge.textContent = text; // a screen reader speaks every change
    badge.dataset.state = this.state;
    this.drawWaiting();
    if (!this.status) return;
    const { plan, models, queue } = this.status;
    const facts = {
      model: models[0],
      profile: plan.profile,
      gpu: plan.gpu.name,
      speed: this.speed === null ? word("none") : this.speed.toFixed(1),
      first: this.first === null ? word("none") : word("seconds", this.first.toFixed(2)),
      queue: word("queue", queue.running, queue.waiting),
    };
    element("facts").replaceChildren(
      ...Object.entries(facts).map(([name, value]) => {
        const row = document.createElement("div");
        add(row, "dt", word(`fact_${name}`));
        add(row, "dd", value).id = `fact-${name}`;
        return row;
      }),
    );
    drawMemory(plan, this.status.measured.memory_mib);
  }

  drawWaiting() {
    const waits = STARTING.has(this.state);
    element("waiting").hidden = !waits;
    if (!waits) {
      this.longest = 0;
      return;
    }
    const { step, step_title: title, seconds_left: left } = this.status;
    element("waiting-step").textContent = step && known(`step_${step}`) ? word(`step_${step}`) : (title ?? "");
    element("waiting-left").textContent = left === null ? word("leftUnknown") : word("left", Math.ceil(left));
    const progress = element("waiting-progress");
    this.longest = Math.max(this.longest, left ?? 0);
    if (left === null || !this.longest) progress.removeAttribute("value");
    else progress.value = 1 - left / this.longest;
  }
}

/** The plan as a bar, what was measured as a second one below it, and both as a table. */
function drawMemory(plan, measured) {
  const { total, ...parts } = plan.memory_mib;
  const names = Object.keys(parts).filter((name) => parts[name] > 0 || measured?.[name] > 0);
  const card = plan.gpu.name === "CPU" ? total : plan.gpu.total_mib;
  const sum = measured && Object.values(measured).reduce((one, other) => one + other, 0);
  const scale = Math.max(card, total, sum ?? 0);
  const root = document.createDocumentFragment();
  root.append(bar(names, parts, scale, "planned"));
  if (measured) root.append(bar(names, measured, scale, "measured"));
  const said = [word("planned", amount(total), amount(plan.gpu.total_mib))];
  if (measured) said.push(word("measured", amount(sum)));
  add(root, "p", said.join(" · ")).className = "note";
  const table = add(root, "table");
  for (const name of names) {
    const row = add(table, "tr");
    const head = add(row, "th");
    head.scope = "row";
    head.append(swatch(names.indexOf(name)), known(name) ? word(name) : name);
    add(row, "td", word("mib", amount(parts[name])));
    if (measured) add(row, "td", measured[name] === undefined ? word("none") : word("mib", amount(measured[name])));
  }
  element("memory").replaceChildren(root);
}

function bar(names, values, scale, kind) {
  const made = document.createElement("div");
  made.className = `bar ${kind}`;
  made.setAttribute("aria-hidden", "true");
  names.forEach((name, index) => {
    const part = made.appendChild(swatch(index));
    part.style.width = `${(100 * (values[name] ?? 0)) / scale}%`;
    part.title = known(name) ? word(name) : name;
  });
  return made;
}

function swatch(index) {
  const made = document.createElement("i");
  made.className = `part part-${index % 11}`;
  return made;
}

const amount = (mib) => Math.round(mib).toLocaleString("en");

function add(parent, name, text = "") {
  const made = parent.appendChild(document.createElement(name));
  made.textContent = text;
  return made;
}
