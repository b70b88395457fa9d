/** The panorama viewer: its state, what is shown, and the actions that its buttons and keys call. */

import { camera, FRONT, seen, texelAt } from "./camera.js";
import { listen } from "./controls.js";
import { button, frame } from "./frame.js";
import { Pictures } from "./pictures.js";
import { Renderer } from "./renderer.js";

const INVITATION = "Run the graph to look around in the panorama.";
const GONE = "The server no longer has this picture; run the graph again.";

export class Viewer {
  #camera = FRONT;
  #maps = [];
  #map = 0;
  #batch = 0;
  #shown = null; // what is drawn
  #values = null; // what the readout reads: the same, or the map whose colours are drawn
  #pointer = null;
  #requested = 0;
  #listening = new AbortController();

  /**
   * `host` provides fetchBlob(file) -> Promise<Blob>, keep(view), which stores a captured view, moved(view), which is
   * called at every change, and say(english, ..), which translates a text into the frontend's language. A view is
   * {yaw, pitch, fov, map, batch, aspect}; map is a label.
   */
  constructor(host) {
    this.host = host;
    const bound = (name, ...values) => () => this[name](...values);
    this.parts = frame({
      reset: bound("reset"),
      full: bound("fullScreen"),
      capture: bound("capture"),
      save: bound("save"),
      copy: bound("copy"),
      earlier: bound("nextInBatch", -1),
      later: bound("nextInBatch", 1),
    }, host.say);
    this.resizing = new ResizeObserver(() => this.requestDraw());
    this.#arrange();
    this.#start();
  }

  get element() {
    return this.parts.root;
  }

  #start() {
    const { canvas } = this.parts;
    const { signal } = this.#listening;
    listen(this, this.parts, signal);
    try {
      this.renderer = new Renderer(canvas);
    } catch (error) {
      this.say(error.message);
      return;
    }
    this.pictures = new Pictures(this.renderer, this.host.fetchBlob);
    this.say(INVITATION);
    canvas.addEventListener("webglcontextlost", (event) => this.#lose(event), { signal });
    canvas.addEventListener("webglcontextrestored", () => this.#restore(), { signal });
    document.addEventListener("fullscreenchange", () => this.requestDraw(), { signal });
    this.resizing.observe(canvas);
  }

  // --- what is shown ---------------------------------------------------------------------------------------------

  /**
   * Show maps [{label, images: [file, ..], coloured?: [file, ..]}, ..], from the given view on if there is one, else on
   * the newest map. `coloured` is drawn in place of `images`, whose values the readout reads.
   */
  show(maps, view = null) {
    const before = new Set(this.#maps.map(({ label }) => label));
    const current = this.#maps[this.#map]?.label;
    this.#maps = maps.filter(({ images }) => images?.length);
    const label = view?.map ?? this.#maps.findLast((map) => !before.has(map.label))?.label ?? current;
    this.#map = Math.max(0, this.#maps.findIndex((map) => map.label === label));
    if (view) {
      this.#camera = camera(view);
      this.#batch = Number.isInteger(view.batch) ? view.batch : 0;
    }
    this.#batch = Math.min(this.#batch, Math.max(0, this.#count - 1));
    this.#arrange();
    this.#refresh();
  }

  get camera() {
    return this.#camera;
  }

  set camera(next) {
    this.#camera = next;
    if (this.#shown) this.say("");
    this.requestDraw();
    this.host.moved(this.view);
  }

  get view() {
    const { yaw, pitch, fov } = this.#camera;
    const [width, height] = [this.parts.canvas.clientWidth || 3, this.parts.canvas.clientHeight || 2];
    const angles = { yaw: rounded(yaw, 2), pitch: rounded(pitch, 2), fov: rounded(fov, 2) };
    const map = this.#maps[this.#map]?.label ?? "image";
    return { ...angles, map, batch: this.#batch, aspect: rounded(width / height, 4) };
  }

  get #count() {
    return this.#maps[this.#map]?.images.length ?? 0;
  }

  #file() {
    return this.#maps[this.#map]?.images[this.#batch];
  }

  /** Rebuild the bars: one button per map, and the position in the batch if it has more than one picture. */
  #arrange() {
    const { maps, batch, count } = this.parts;
    const choices = this.#maps.map(({ label }, i) => {
      const name = this.host.say(label);
      const title = i < 9 ? this.host.say("Show {0} ({1})", name, i + 1) : this.host.say("Show {0}", name);
      const choice = button(name, title, () => this.chooseMap(i));
      choice.setAttribute("aria-pressed", String(i === this.#map));
      return choice;
    });
    const focused = [...maps.children].indexOf(document.activeElement);
    maps.replaceChildren(...choices);
    choices[focused]?.focus();
    maps.hidden = choices.length < 2;
    batch.hidden = this.#count < 2;
    count.textContent = `${this.#batch + 1} / ${this.#count}`;
  }

  /** Show the chosen picture; if another picture was chosen meanwhile, a late one is not shown. */
  async #refresh() {
    const file = this.#file();
    if (!file || !this.renderer || this.renderer.lost) return;
    const wanted = () => file === this.#file() && !this.#listening.signal.aborted;
    try {
      const load = async (one) => this.pictures.peek(one) ?? (await this.pictures.load(one, wanted));
      const values = await load(file);
      const picture = await load(this.#maps[this.#map]?.coloured?.[this.#batch] ?? file);
      if (!picture || !values || !wanted()) return;
      [this.#shown, this.#values] = [picture, values];
      this.say("");
      this.requestDraw();
    } catch (error) {
      if (wanted()) this.#fail(error.gone ? GONE : error.message);
    }
  }

  /** Show only a message: the previous picture would be mistaken for the missing one. */
  #fail(message) {
    this.#shown = null;
    this.renderer.clear();
    this.parts.readout.hidden = true;
    this.say(message);
  }

  say(english) {
    this.parts.message.textContent = english && this.host.say(english);
  }

  // --- drawing ---------------------------------------------------------------------------------------------------

  /** Draw once at the next animation frame, even if this is called several times. */
  requestDraw() {
    if (this.#requested) return;
    this.#requested = requestAnimationFrame(() => {
      this.#requested = 0;
      this.draw();
    });
  }

  draw() {
    if (!this.#shown || this.renderer.lost) return;
    this.renderer.draw(this.#shown, this.#camera);
    this.#read();
    this.parts.canvas.setAttribute("aria-label", this.#description());
  }

  /** Update the text for screen readers: the map and the direction in whole degrees. */
  #description() {
    const { say } = this.host;
    const { yaw, pitch, map } = this.view;
    const across = say(yaw < -0.5 ? "{0}° to the left" : "{0}° to the right", Math.round(Math.abs(yaw)));
    const above = say(pitch < -0.5 ? "{0}° down" : "{0}° up", Math.round(Math.abs(pitch)));
    return say("Panorama {0}, looking {1} and {2}", say(map), across, above);
  }

  /** Remember where the pointer is (null: nowhere), for the readout. */
  pointAt(event) {
    this.#pointer = event && { x: event.clientX, y: event.clientY };
    this.requestDraw();
  }

  #read() {
    const { readout, canvas } = this.parts;
    readout.hidden = !this.#pointer;
    if (!this.#pointer) return;
    const box = canvas.getBoundingClientRect();
    const [x, y] = [(this.#pointer.x - box.left) / box.width, (this.#pointer.y - box.top) / box.height];
    const at = seen(this.#camera, 2 * x - 1, 1 - 2 * y, box.width / box.height);
    const values = this.renderer.texel(this.#values, ...texelAt(at, this.#values.width, this.#values.height));
    const numbers = values.map((value) => value.toFixed(3)).join(" ");
    readout.value = `${numbers}   lon ${at.lon.toFixed(1)}° lat ${at.lat.toFixed(1)}°`;
  }

  // --- actions ---------------------------------------------------------------------------------------------------

  reset() {
    this.camera = FRONT;
  }

  chooseMap(index) {
    if (!this.#maps[index]) return;
    this.#map = index;
    this.#choose(this.#batch);
  }

  nextMap(step) {
    const { length } = this.#maps;
    if (length) this.chooseMap((this.#map + step + length) % length);
  }

  nextInBatch(step) {
    if (this.#count) this.#choose((this.#batch + step + this.#count) % this.#count);
  }

  #choose(batch) {
    this.#batch = Math.min(batch, this.#count - 1);
    this.#arrange();
    this.#refresh();
    this.host.moved(this.view);
  }

  async fullScreen() {
    try {
      if (document.fullscreenElement === this.element) await document.exitFullscreen();
      else await this.element.requestFullscreen();
    } catch {
      this.say("The browser refuses full screen here.");
    }
  }

  capture() {
    if (!this.#shown) return;
    this.host.keep(this.view);
    this.say("Captured: the next run outputs this view.");
  }

  async save() {
    const blob = await this.#png();
    if (!blob) return;
    const { map, yaw, pitch } = this.view;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${map} yaw ${Math.round(yaw)} pitch ${Math.round(pitch)}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  async copy() {
    if (!this.#shown) return;
    try {
      await navigator.clipboard.write([new ClipboardItem({ "image/png": this.#png() })]);
      this.say("Copied.");
    } catch {
      this.say("The browser refuses to copy here (it needs https or localhost); use Save.");
    }
  }

  /** Resolve to the view as PNG, or null if there is none yet. The drawing is valid only until this task ends. */
  async #png() {
    if (!this.#shown || this.renderer.lost) return null;
    this.draw();
    return new Promise((resolve) => this.parts.canvas.toBlob(resolve, "image/png"));
  }

  // --- lost contexts and the end ---------------------------------------------------------------------------------

  #lose(event) {
    event.preventDefault(); // else the browser never restores it
    this.#shown = null;
    this.pictures.clear(false);
    this.say("The browser lost the graphics card; waiting for it.");
  }

  #restore() {
    this.renderer.build();
    this.say("");
    this.#refresh();
  }

  /** Release textures, context and listeners; the viewer can't be used afterwards. */
  dispose() {
    this.#listening.abort();
    this.resizing.disconnect();
    cancelAnimationFrame(this.#requested);
    this.#shown = null;
    this.pictures?.clear(!this.renderer.lost);
    this.renderer?.dispose();
    this.element.remove();
  }
}

const rounded = (value, digits) => Number(value.toFixed(digits));
