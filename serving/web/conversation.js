// The turns of a conversation: what was said, in the API's form, and how it looks. One answer at a time.

import { Refused, ask } from "./api.js";
import * as boxes from "./boxes.js";
import { render } from "./markdown.js";
import { thumbnail } from "./pictures.js";
import { word } from "./words.js";

// What comes faster has come at once, as after a busy moment, and tells no speed.
const SHORTEST_S = 0.02;

export class Conversation {
  /** `section` is where it is shown; `say` tells a screen reader something. */
  constructor(section, say) {
    this.section = section;
    this.say = say;
    this.clear();
  }

  clear() {
    this.messages = [];
    this.pictures = []; // of all messages, in their order
    this.failed = null;
    this.section.replaceChildren();
  }

  /** The messages that a question would be asked with. */
  with(question, pictures) {
    const content = [
      ...pictures.map(({ url }) => ({ type: "image_url", image_url: { url } })),
      { type: "text", text: question },
    ];
    return [...this.messages, { role: "user", content: pictures.length ? content : question }];
  }

  /** Asks, and draws the answer as it comes. What was stopped stays as far as it came. Throws Refused, or AbortError of what
   * was stopped before its first word, when there is no answer: the turn is then marked, is no part of the conversation, and
   * goes away with the next. */
  async ask(question, pictures, options, signal) {
    this.failed?.remove();
    this.failed = null;
    const begun = this.messages;
    const messages = this.with(question, pictures);
    const turn = this.section.appendChild(document.createElement("div"));
    turn.className = "turn";
    this.drawQuestion(turn, question, pictures);
    const shown = drawAnswer(turn);
    this.say(word("asking"));
    const answer = { text: "", finish: null, usage: null, sizes: [], asked: performance.now(), first: 0 };
    let failure = null;
    try {
      await receive(ask({ ...options, messages }, signal), answer, shown);
    } catch (error) {
      failure = error;
    } finally {
      shown.article.setAttribute("aria-busy", "false");
    }
    const stopped = failure?.name === "AbortError";
    if (failure && !stopped && !(failure instanceof Refused)) throw failure;
    if (this.messages !== begun) return; // a new conversation began meanwhile, and knows nothing of this one
    if (failure && !(stopped && answer.text)) {
      this.fail(turn, shown, stopped ? null : failure);
      throw failure;
    }
    if (stopped) answer.finish = "stopped";
    this.messages = [...messages, { role: "assistant", content: answer.text }];
    this.pictures.push(...pictures);
    shown.text.replaceChildren(render(legible(answer.text)));
    this.mark(shown, answer, options.model);
    shown.note.textContent = note(answer);
    this.say(`${answer.text} ${word(answer.finish === "stopped" ? "stopped" : "answered")}`);
  }

  drawQuestion(turn, question, pictures) {
    const article = turn.appendChild(document.createElement("article"));
    article.className = "asked";
    article.setAttribute("aria-label", word("you"));
    if (pictures.length) {
      const row = article.appendChild(document.createElement("div"));
      row.className = "pictures";
      row.append(...pictures.map((picture, index) => thumbnail(picture, this.pictures.length + index)));
    }
    const text = article.appendChild(document.createElement("p"));
    text.textContent = question;
  }

  /** Draws the boxes that the answer names on the newest picture. */
  mark(shown, answer, model) {
    const picture = this.pictures.at(-1);
    const found = boxes.find(answer.text, model, answer.sizes.at(-1));
    if (picture && found.length) shown.article.insertBefore(boxes.draw(picture.url, found), shown.note);
  }

  fail(turn, shown, error) {
    this.failed = turn;
    shown.article.classList.add("failed");
    const title = document.createElement("strong");
    title.textContent = word(error ? "failed" : "stopped");
    shown.text.replaceChildren(title);
    if (!error) return this.say(title.textContent);
    const message = document.createElement("p");
    message.textContent = explain(error);
    shown.text.append(message);
    this.say(`${title.textContent}. ${message.textContent}`);
  }
}

/** Fills `answer` and shows what there is of it, once a frame at most. */
async function receive(pieces, answer, shown) {
  let frame = 0;
  for await (const piece of pieces) {
    Object.assign(answer, { sizes: piece.sizes ?? answer.sizes, finish: piece.finish ?? answer.finish, usage: piece.usage ?? answer.usage });
    if (piece.text === undefined) continue;
    answer.first ||= performance.now();
    answer.text += piece.text;
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      if (shown.article.getAttribute("aria-busy") === "false") return;
      const followed = atEnd();
      shown.text.replaceChildren(render(answer.text));
      if (followed) scrollTo({ top: document.body.scrollHeight });
    });
  }
}

/** An answer that is JSON as a whole is shown as such, with line breaks where a reader wants them. */
function legible(text) {
  if (!/^\s*[{[]/.test(text)) return text;
  try {
    const spread = JSON.stringify(JSON.parse(text), null, 2);
    const short = spread.replace(/\[[\s\d.,-]+\]/g, (numbers) => numbers.replace(/\s+/g, " ").replace("[ ", "[").replace(" ]", "]"));
    return `\`\`\`json\n${short}\n\`\`\``;
  } catch {
    return text;
  }
}

const atEnd = () => innerHeight + scrollY > document.body.scrollHeight - 120;

function drawAnswer(turn) {
  const article = turn.appendChild(document.createElement("article"));
  article.className = "answer";
  article.setAttribute("aria-label", word("model"));
  article.setAttribute("aria-busy", "true");
  const text = article.appendChild(document.createElement("div"));
  text.className = "text";
  const waiting = text.appendChild(document.createElement("p"));
  waiting.className = "dots";
  waiting.textContent = word("asking");
  const note = article.appendChild(document.createElement("p"));
  note.className = "note";
  article.scrollIntoView({ block: "nearest" });
  return { article, text, note };
}

function note({ finish, usage, asked, first }) {
  const parts = [];
  if (finish === "stopped") parts.push(word("stopped"));
  if (finish === "length") parts.push(word("cut"));
  if (usage && first) {
    const seconds = (performance.now() - first) / 1000;
    const tokens = usage.completion_tokens;
    const speed = tokens > 1 && seconds > SHORTEST_S ? ((tokens - 1) / seconds).toFixed(0) : word("none");
    parts.push(word("figures", tokens, ((first - asked) / 1000).toFixed(2), speed));
  }
  return parts.join(" ");
}

/** What to tell the user of a Refused. */
function explain(error) {
  if (error.status === 0) return error.message || word("broken");
  return error.message + (error.wait ? ` ${word("againIn", error.wait)}` : "");
}
