// Boxes that an answer names (`bbox_2d`), drawn on the picture.

import { word } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

/** The boxes in an answer, in thousandths of the picture: `{label, box: [x1, y1, x2, y2]}`.
 *
 * Qwen2-VL and Qwen3-VL count 0 to 1000; Qwen2.5-VL counts pixels of the picture as the model saw it: `size`. */
export function find(text, model, size) {
  const [width, height] = /qwen2\.?5/i.test(model) && size ? size : [1000, 1000];
  const found = [];
  for (const [object] of text.matchAll(/\{[^{}]*"bbox_2d"[^{}]*\}/g)) {
    let parsed;
    try {
      parsed = JSON.parse(object);
    } catch {
      continue; // not yet complete, or not JSON
    }
    const box = parsed.bbox_2d;
    if (!Array.isArray(box) || box.length !== 4 || !box.every(Number.isFinite)) continue;
    const [x1, y1, x2, y2] = [box[0] / width, box[1] / height, box[2] / width, box[3] / height].map((share) =>
      Math.max(0, Math.min(1000, share * 1000)),
    );
    found.push({ label: String(parsed.label ?? parsed.name ?? ""), box: [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)] });
  }
  return found;
}

/** The picture with its boxes. */
export function draw(url, boxes) {
  const figure = document.createElement("figure");
  figure.className = "boxed";
  const frame = figure.appendChild(document.createElement("div"));
  const image = frame.appendChild(document.createElement("img"));
  image.src = url;
  const names = boxes.map(({ label }, index) => label || String(index + 1));
  image.alt = word("boxes", boxes.length, names.join(", "));
  const overlay = frame.appendChild(document.createElementNS(SVG, "svg"));
  overlay.setAttribute("viewBox", "0 0 1000 1000");
  overlay.setAttribute("preserveAspectRatio", "none");
  overlay.setAttribute("aria-hidden", "true");
  boxes.forEach(({ box: [x1, y1, x2, y2] }, index) => {
    for (const name of ["halo", "line"]) {
      const shape = overlay.appendChild(document.createElementNS(SVG, "rect"));
      shape.setAttribute("class", name);
      for (const [attribute, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) shape.setAttribute(attribute, value);
    }
    const tag = frame.appendChild(document.createElement("span"));
    tag.className = "tag";
    tag.setAttribute("aria-hidden", "true");
    tag.textContent = names[index];
    tag.style.left = `${x1 / 10}%`;
    tag.style.top = `${y1 / 10}%`;
  });
  const caption = figure.appendChild(document.createElement("figcaption"));
  caption.textContent = image.alt;
  return figure;
}
