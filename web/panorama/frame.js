/** The viewer's elements: their layout and the texts for screen readers. No behaviour. */

const TOOLS = [
  ["reset", "Reset", "Look to the front again (R)"],
  ["full", "Full screen", "Full screen, or back (F or double click)"],
  ["capture", "Capture", "Make this view the node's output from the next run on (C)"],
  ["save", "Save", "Save this view as a PNG file (S)"],
  ["copy", "Copy", "Copy this view to the clipboard"],
];

/** Create an element with properties, attributes (in `attributes`) and children. */
export function element(tag, { attributes = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  made.append(...children);
  return made;
}

export function button(text, title, onclick) {
  return element("button", { type: "button", textContent: text, title, onclick, attributes: { "aria-label": title } });
}

const group = (className, label, ...children) =>
  element("div", { className, attributes: { role: "group", "aria-label": label } }, ...children);

/**
 * Build the viewer; `on` maps the names of TOOLS and "earlier"/"later" to what their buttons do, and `say` puts
 * English into the frontend's language.
 */
export function frame(on, say) {
  const canvas = element("canvas", { attributes: { role: "img", "aria-label": say("Panorama") } });
  const message = element("div", { className: "omnix-message", attributes: { role: "status" } });
  const readout = element("output", { className: "omnix-readout", hidden: true });
  const maps = group("omnix-bar omnix-maps", say("Maps"));
  const count = element("span");
  const batch = group("omnix-batch", say("Picture of the batch"));
  batch.append(
    button("<", say("Previous picture (Shift+B)"), on.earlier),
    count,
    button(">", say("Next picture (B)"), on.later),
  );
  const tools = TOOLS.map(([name, text, title]) => button(say(text), say(title), on[name]));
  const root = element(
    "div",
    {
      className: "omnix-panorama",
      tabIndex: 0,
      attributes: {
        role: "application",
        "aria-label": say(
          "Panorama viewer: drag or arrow keys to look, wheel or + and - to zoom, M for the next map",
        ),
        "data-capture-wheel": "true",
      },
    },
    maps,
    element("div", { className: "omnix-stage" }, canvas, readout, message),
    group("omnix-bar omnix-tools", say("View"), ...tools, batch),
  );
  return { root, canvas, message, readout, maps, batch, count };
}
