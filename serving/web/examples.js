// Pictures to begin with, drawn here, so that nothing has to be downloaded and the right answers are known.

import { whenTranslated, word } from "./words.js";

const WIDTH = 640;
const HEIGHT = 480;

const EXAMPLES = [
  { name: "shapes", draw: (pen) => (circle(pen, 190, 250, 90, "#d22"), square(pen, 450, 240, 85, "#24d")) },
  { name: "count", draw: (pen) => [120, 320, 520].forEach((x) => circle(pen, x, 240, 65, "#24d")) },
  { name: "read", draw: (pen) => letters(pen, "HELLO") },
  { name: "json", draw: (pen) => circle(pen, 320, 240, 110, "#d22"), schema: { shape: "string", color: "string" } },
  { name: "find", draw: (pen) => (circle(pen, 150, 150, 70, "#d22"), circle(pen, 470, 310, 90, "#282")), grounding: true },
];

/** Fills `list` with buttons; `use(file, question, schema)` is called with the chosen one. The built-in demo model has not
 * learned to tell places in coordinates: `grounding` says whether the served model has. */
export function show(list, use) {
  let grounding = false;
  const draw = () =>
    list.replaceChildren(...EXAMPLES.filter((example) => grounding || !example.grounding).map((example) => button(example, use)));
  whenTranslated(draw);
  return {
    set grounding(value) {
      if (value !== grounding) {
        grounding = value;
        draw();
      }
    },
  };
}

function button(example, use) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "example";
  const canvas = made.appendChild(painted(example));
  canvas.setAttribute("aria-hidden", "true");
  const title = made.appendChild(document.createElement("strong"));
  title.textContent = word(`ex_${example.name}`);
  const question = made.appendChild(document.createElement("span"));
  question.textContent = word(`ex_${example.name}_q`);
  made.addEventListener("click", () =>
    canvas.toBlob((blob) => {
      const file = new File([blob], `${example.name}.png`, { type: "image/png" });
      use(file, question.textContent, example.schema && schema(example.schema));
    }),
  );
  return made;
}

function schema(properties) {
  return {
    type: "object",
    properties: Object.fromEntries(Object.entries(properties).map(([name, type]) => [name, { type }])),
    required: Object.keys(properties),
    additionalProperties: false,
  };
}

function painted(example) {
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, WIDTH, HEIGHT);
  example.draw(pen);
  return canvas;
}

function circle(pen, x, y, radius, color) {
  pen.fillStyle = color;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}

function square(pen, x, y, half, color) {
  pen.fillStyle = color;
  pen.fillRect(x - half, y - half, 2 * half, 2 * half);
}

function letters(pen, text) {
  pen.fillStyle = "black";
  pen.font = "bold 130px sans-serif";
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.fillText(text, WIDTH / 2, HEIGHT / 2);
}
