/** Fetches, decodes and uploads pictures, and keeps the last few on the graphics card. */

// A 4096x2048 picture with its coarser levels takes 45 MB there.
const KEPT = 4;

export class Pictures {
  /** `fetchBlob(file)` gets {filename, subfolder, type} and resolves to the encoded picture. */
  constructor(renderer, fetchBlob) {
    this.renderer = renderer;
    this.fetchBlob = fetchBlob;
    this.loaded = new Map();
  }

  /** Return the picture if it is loaded, else undefined. */
  peek(file) {
    const key = keyOf(file);
    const picture = this.loaded.get(key);
    if (!picture) return undefined;
    this.loaded.delete(key);
    this.loaded.set(key, picture); // the newest is last
    return picture;
  }

  /** Load the picture; resolves to undefined if it is not `wanted()` any more or the context was lost meanwhile. */
  async load(file, wanted) {
    const bitmap = await decoded(await this.fetchBlob(file), this.renderer.widest);
    try {
      if (this.renderer.lost || !wanted()) return undefined;
      return this.peek(file) ?? this.#keep(keyOf(file), this.renderer.upload(bitmap));
    } finally {
      bitmap.close();
    }
  }

  #keep(key, picture) {
    this.loaded.set(key, picture);
    for (const [old, unused] of [...this.loaded].slice(0, -KEPT)) {
      this.renderer.release(unused);
      this.loaded.delete(old);
    }
    return picture;
  }

  /** Drop everything; `alive`: whether the context with the textures still exists. */
  clear(alive = true) {
    if (alive) this.loaded.forEach((picture) => this.renderer.release(picture));
    this.loaded.clear();
  }
}

const keyOf = ({ type, subfolder, filename }) => `${type}/${subfolder}/${filename}`;

/** Decode outside the main thread without colour management, because maps are data. */
async function decoded(blob, widest) {
  const asWritten = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(blob, asWritten);
  if (Math.max(bitmap.width, bitmap.height) <= widest) return bitmap;
  const scale = widest / Math.max(bitmap.width, bitmap.height);
  const [resizeWidth, resizeHeight] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.floor(side * scale)));
  bitmap.close();
  return createImageBitmap(blob, { ...asWritten, resizeWidth, resizeHeight, resizeQuality: "high" });
}
