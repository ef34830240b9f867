// Markdown to DOM nodes. A model's text never becomes markup: every character of it ends in a text node, links lead to
// http(s) only, and pictures are shown as links, so that an answer cannot make the browser ask for anything.

// The opening of a code block. Backticks that end in the same line are code within a sentence.
const FENCE = /^\s*(```[^`]*$|~~~)/;
const BLOCK = /^(#{1,6} |```[^`]*$|~~~|> ?|\s*([-*+]|\d+[.)]) |\|)/;
const ITEM = /^(\s*)([-*+]|\d+[.)]) +(.*)$/;
const DEEPEST = 12; // lists in quotes in lists: deeper ones are shown as text
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
// Bounded, so that an answer full of opening marks costs little.
const INLINE =
  /(`+)([^`]|[^`].{0,800}?[^`])\1(?!`)|\*\*(?=\S)(.{0,800}?\S)\*\*|\*(?=[^\s*])(.{0,800}?[^\s*])\*(?!\*)|~~(?=\S)(.{0,800}?\S)~~|!?\[([^\]]*)\]\(([^()\s]+)\)|\\([!-/:-@[-`{-~])|(https?:\/\/[^\s<>()"'，。；、）]+)/;

/** A fragment for `text`, which may be the beginning of an answer that still comes. */
export function render(text) {
  const fragment = document.createDocumentFragment();
  blocks(text.replace(/\r\n?/g, "\n").split("\n"), fragment);
  return fragment;
}

function blocks(lines, parent, depth = 0) {
  if (depth > DEEPEST) {
    append(parent, "p").textContent = lines.join("\n");
    return;
  }
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    if (!line.trim()) at += 1;
    else if (FENCE.test(line)) at = code(lines, at, parent);
    else if (/^#{1,6} /.test(line)) {
      // Below the page's own headings.
      const level = Math.min(6, line.indexOf(" ") + 2);
      inline(line.replace(/^#+ /, "").replace(/ #+$/, ""), append(parent, `h${level}`));
      at += 1;
    } else if (RULE.test(line)) {
      append(parent, "hr");
      at += 1;
    } else if (line.startsWith(">")) at = quote(lines, at, parent, depth);
    else if (ITEM.test(line)) at = list(lines, at, parent, depth);
    else if (line.includes("|") && /^[\s|:-]*-[\s|:-]*$/.test(lines[at + 1] ?? "")) at = table(lines, at, parent);
    else at = paragraph(lines, at, parent);
  }
}

function code(lines, at, parent) {
  const fence = lines[at].trim().slice(0, 3);
  let end = at + 1;
  while (end < lines.length && !lines[end].trim().startsWith(fence)) end += 1;
  const block = append(parent, "pre");
  block.tabIndex = 0; // it may scroll, and a keyboard must be able to
  append(block, "code").textContent = lines.slice(at + 1, end).join("\n");
  return end + 1;
}

function quote(lines, at, parent, depth) {
  let end = at;
  while (end < lines.length && lines[end].startsWith(">")) end += 1;
  blocks(lines.slice(at, end).map((line) => line.replace(/^> ?/, "")), append(parent, "blockquote"), depth + 1);
  return end;
}

function list(lines, at, parent, depth) {
  const [, indent, mark] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(mark);
  const made = append(parent, ordered ? "ol" : "ul");
  if (ordered) made.start = parseInt(mark, 10);
  while (at < lines.length) {
    const found = ITEM.exec(lines[at]);
    if (!found || found[1].length > indent.length + 1 || found[1].length < indent.length) break;
    if (/\d/.test(found[2]) !== ordered) break;
    const inside = [found[3]];
    at += 1;
    while (at < lines.length && belongs(lines, at, indent.length)) {
      inside.push(lines[at].replace(new RegExp(`^\\s{0,${indent.length + 2 + (ordered ? 1 : 0)}}`), ""));
      at += 1;
    }
    const item = append(made, "li");
    if (inside.length === 1) inline(inside[0], item);
    else blocks(inside, item, depth + 1);
  }
  return at;
}

function belongs(lines, at, indent) {
  const line = lines[at];
  if (line.trim()) return line.search(/\S/) > indent + 1;
  return (lines[at + 1] ?? "").search(/\S/) > indent + 1;
}

function table(lines, at, parent) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
  const frame = append(parent, "div");
  frame.className = "scroll";
  frame.tabIndex = 0;
  const made = append(frame, "table");
  const head = append(append(made, "thead"), "tr");
  for (const cell of cells(lines[at])) inline(cell, append(head, "th"));
  const body = append(made, "tbody");
  for (at += 2; at < lines.length && lines[at].includes("|"); at += 1) {
    const row = append(body, "tr");
    for (const cell of cells(lines[at])) inline(cell, append(row, "td"));
  }
  return at;
}

function paragraph(lines, at, parent) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !BLOCK.test(lines[end]) && !RULE.test(lines[end])) end += 1;
  const made = append(parent, "p");
  lines.slice(at, end).forEach((line, index) => {
    if (index) append(made, "br"); // models mean their line breaks
    inline(line.trim(), made);
  });
  return end;
}

function inline(text, parent, depth = 0) {
  let rest = text;
  for (let found; depth < DEEPEST && (found = INLINE.exec(rest)); ) {
    parent.append(rest.slice(0, found.index));
    const [whole, , code, bold, italic, struck, label, target, escaped, bare] = found;
    if (code !== undefined) append(parent, "code").textContent = code;
    else if (bold !== undefined) inline(bold, append(parent, "strong"), depth + 1);
    else if (italic !== undefined) inline(italic, append(parent, "em"), depth + 1);
    else if (struck !== undefined) inline(struck, append(parent, "s"), depth + 1);
    else if (escaped !== undefined) parent.append(escaped);
    else link(parent, label ?? bare, target ?? bare, whole);
    rest = rest.slice(found.index + whole.length);
  }
  parent.append(rest);
}

function link(parent, label, target, whole) {
  if (!/^https?:\/\//i.test(target)) {
    parent.append(whole);
    return;
  }
  const made = append(parent, "a");
  made.textContent = label || target;
  made.href = target;
  made.title = target;
  made.target = "_blank";
  made.rel = "noopener noreferrer nofollow";
}

function append(parent, name) {
  return parent.appendChild(document.createElement(name));
}
