// Talks to the server: status, metrics, and a streamed answer. Owns the key and the shape of errors; draws nothing.

const KEY = "onecard-key";

export const getKey = () => sessionStorage.getItem(KEY) ?? "";
export const setKey = (key) => sessionStorage.setItem(KEY, key);

/** What the server, or the way to it, said instead of an answer. `status` is 0 where nobody answered. */
export class Refused extends Error {
  constructor(status, message, wait = 0) {
    super(message);
    this.status = status;
    this.wait = wait; // seconds, from Retry-After; 0 where it says nothing
  }
}

/** Paths are relative, so that the page works below a path of a proxy. Throws Refused; AbortError passes. */
async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (getKey()) headers.Authorization = `Bearer ${getKey()}`;
  let reply;
  try {
    reply = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "");
  }
  if (reply.ok) return reply;
  const text = await reply.text();
  let message = text.slice(0, 500);
  try {
    message = JSON.parse(text).error.message;
  } catch {
    // A proxy's page, perhaps: its first words must do.
  }
  throw new Refused(reply.status, message, Number(reply.headers.get("Retry-After")) || 0);
}

export async function status() {
  return (await request("onecard/status")).json();
}

/** Name → sum over its series, of the metrics wanted. */
export async function metrics(...wanted) {
  const sums = {};
  for (const line of (await (await request("metrics")).text()).split("\n")) {
    const name = line.slice(0, line.search(/[{ ]/));
    if (wanted.includes(name)) sums[name] = (sums[name] ?? 0) + Number(line.slice(line.lastIndexOf(" ") + 1));
  }
  return sums;
}

/** Asks; yields `{text}` as it comes, then `{finish, usage}`. The first thing yielded is `{sizes}`: width and height at
 * which the model sees each picture. Throws Refused. */
export async function* ask(body, signal) {
  const reply = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const sizes = reply.headers.get("X-Onecard-Image-Sizes") ?? "";
  yield { sizes: [...sizes.matchAll(/(\d+)x(\d+)/g)].map(([, width, height]) => [Number(width), Number(height)]) };
  let done = false;
  for await (const data of events(reply.body)) {
    if (data === "[DONE]") {
      done = true;
      break;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(chunk.error.code ?? 500, chunk.error.message);
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) yield { text: choice.delta.content };
    if (choice?.finish_reason) yield { finish: choice.finish_reason };
    if (chunk.usage) yield { usage: chunk.usage };
  }
  if (!done) throw new Refused(0, "");
}

/** The `data` of server-sent events. A broken connection is Refused. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "");
  } finally {
    reader.cancel().catch(() => {});
  }
}
