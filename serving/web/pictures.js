// Pictures on their way to the server: what may be sent, read into data URLs, and made smaller where a file is needlessly
// large. A picture is `{name, url, bytes}`.

import { word } from "./words.js";

const TAKEN = new Set(["image/jpeg", "image/png", "image/webp", "image/gif"]);
const CONVERTED = new Set(["image/avif", "image/bmp", "image/heic", "image/heif"]); // where the browser can read them
const LARGE = 4 * 2 ** 20;
const MIB = 2 ** 20;

/** Reads a File. Throws an Error with what to tell the user. `limits` are those of the server's status, if known. */
export async function read(file, limits) {
  const name = file.name || "picture";
  if (!TAKEN.has(file.type) && !CONVERTED.has(file.type)) throw new Error(word("notPicture", name));
  let blob = file;
  if (CONVERTED.has(file.type) || file.size > LARGE) {
    blob = (await smaller(file, limits?.max_image_pixels)) ?? file;
    if (CONVERTED.has(blob.type)) throw new Error(word("unreadable", name));
  }
  const most = limits?.max_body_mib;
  if (most && blob.size * (4 / 3) > most * MIB) throw new Error(word("tooBig", name, (blob.size / MIB).toFixed(1), most));
  return { name, url: await dataUrl(blob), bytes: blob.size };
}

/** As JPEG with no more than four times the pixels that the model looks at, upright; null where it cannot be decoded. */
async function smaller(file, pixels = 2 ** 20) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return null;
  }
  const scale = Math.min(1, Math.sqrt((4 * pixels) / (bitmap.width * bitmap.height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // JPEG has no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(word("unreadable", blob.name ?? "")));
    reader.readAsDataURL(blob);
  });
}

/** The pictures that wait in the composer, shown with a button each to take them out again. */
export class Tray {
  constructor(list, onChange) {
    this.pictures = [];
    this.list = list;
    this.onChange = onChange;
  }

  add(...pictures) {
    this.pictures.push(...pictures);
    this.draw();
  }

  /** Hands the pictures over, and is empty. */
  take() {
    const taken = this.pictures;
    this.pictures = [];
    this.draw();
    return taken;
  }

  remove(picture) {
    this.pictures = this.pictures.filter((other) => other !== picture);
    this.draw();
  }

  draw() {
    this.list.hidden = this.pictures.length === 0;
    this.list.replaceChildren(
      ...this.pictures.map((picture, index) => {
        const item = document.createElement("li");
        item.append(thumbnail(picture, index));
        const remove = item.appendChild(document.createElement("button"));
        remove.type = "button";
        remove.textContent = "×";
        remove.setAttribute("aria-label", word("remove", picture.name));
        remove.addEventListener("click", () => {
          this.remove(picture);
          (this.list.querySelector("button") ?? document.getElementById("choose")).focus();
        });
        return item;
      }),
    );
    this.onChange();
  }
}

export function thumbnail(picture, index) {
  const image = document.createElement("img");
  image.src = picture.url;
  image.alt = word("picture", index + 1, picture.name);
  return image;
}
