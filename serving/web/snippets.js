// A request as code to copy. Pictures are read from files of their names; a key from the environment, never shown.

// Stands for a picture until it is written. Of Unicode's private use, so that no question begins with it.
const MARK = "\ue000";

/** `body` as code in `language`; `pictures` are those of its messages, in order. `keyed` where the server wants a key. */
export function snippet(language, body, pictures, keyed) {
  const url = new URL("v1", document.baseURI).href;
  let at = 0;
  const messages = body.messages.map((message) => ({
    ...message,
    content: Array.isArray(message.content)
      ? message.content.map((part) => (part.type === "image_url" ? { ...part, image_url: { url: MARK + at++ } } : part))
      : message.content,
  }));
  return { curl, python, javascript }[language]({ ...body, messages }, pictures, url, keyed);
}

const mime = ({ url }) => url.slice(5, url.indexOf(";"));

function curl(body, pictures, url, keyed) {
  const quoted = (name) => `'${name.replaceAll("'", `'\\''`)}'`;
  const text = JSON.stringify(body, null, 2)
    .replace(/[\\$`]/g, "\\$&") // the shell takes these off again
    .replace(new RegExp(`"${MARK}(\\d+)"`, "g"), (_, at) => `"data:${mime(pictures[at])};base64,$(base64 < ${quoted(pictures[at].name)} | tr -d '\\n')"`);
  const key = keyed ? ` -H "Authorization: Bearer $ONECARD_API_KEY"` : "";
  return `curl ${url}/chat/completions -H 'Content-Type: application/json'${key} -d @- <<END\n${text}\nEND\n`;
}

function python(body, pictures, url, keyed) {
  const call = (at) => `"data:${mime(pictures[at])};base64," + base64_of(${JSON.stringify(pictures[at].name)})`;
  const options = { ...body };
  const extra = Object.entries(options).map(([name, value]) => `    ${name}=${literal(value, call, PYTHON, "    ")},`);
  const key = keyed ? `os.environ["ONECARD_API_KEY"]` : `"none"`;
  const imports = [...(pictures.length ? ["import base64"] : []), ...(keyed ? ["import os"] : []), ...(pictures.length ? ["from pathlib import Path"] : [])];
  const helper = pictures.length ? `\n\ndef base64_of(file):\n    return base64.b64encode(Path(file).read_bytes()).decode()\n\n` : "";
  return `${imports.join("\n")}${imports.length ? "\n\n" : ""}from openai import OpenAI
${helper}
client = OpenAI(base_url="${url}", api_key=${key})
reply = client.chat.completions.create(
${extra.join("\n")}
)
print(reply.choices[0].message.content)
`;
}

function javascript(body, pictures, url, keyed) {
  const call = (at) => `"data:${mime(pictures[at])};base64," + (await base64Of(${JSON.stringify(pictures[at].name)}))`;
  const helper = pictures.length
    ? `import { readFile } from "node:fs/promises";\n\nconst base64Of = async (file) => (await readFile(file)).toString("base64");\n\n`
    : "";
  const key = keyed ? `, Authorization: \`Bearer \${process.env.ONECARD_API_KEY}\`` : "";
  return `${helper}const reply = await fetch("${url}/chat/completions", {
  method: "POST",
  headers: { "Content-Type": "application/json"${key} },
  body: JSON.stringify(${literal(body, call, JAVASCRIPT, "  ")}),
});
console.log((await reply.json()).choices[0].message.content);
`;
}

const PYTHON = { true: "True", false: "False", null: "None" };
const JAVASCRIPT = {};

/** A value in a language's own notation; strings and numbers are JSON's in both. */
function literal(value, call, words, indent) {
  const deeper = `${indent}  `;
  if (typeof value === "string" && value.startsWith(MARK)) return call(Number(value.slice(MARK.length)));
  if (Array.isArray(value)) return list("[", "]", value.map((item) => literal(item, call, words, deeper)), indent);
  if (value && typeof value === "object") {
    const items = Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, call, words, deeper)}`);
    return list("{", "}", items, indent);
  }
  const text = JSON.stringify(value);
  return words[text] ?? text;
}

function list(open, close, items, indent) {
  const line = `${open}${items.join(", ")}${close}`;
  if (line.length <= 80 && !line.includes("\n")) return line;
  return `${open}\n${items.map((item) => `${indent}  ${item},\n`).join("")}${indent}${close}`;
}
